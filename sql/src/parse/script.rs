//! Splits a script into statements: every one that Holdfast knows, and a refusal by name for every other that Flink
//! knows.

use super::ddl::{self, CreateTable};
use super::dialect::FlinkDialect;
use crate::error::{PlanError, Pos, Result};
use sqlparser::ast::{Ident, ObjectName, Query};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Whitespace};

/// A statement with its place.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The first word's place.
    pub pos: Pos,
    /// What it says.
    pub kind: StatementKind,
}

/// What a statement says.
#[derive(Debug)]
pub(crate) enum StatementKind {
    /// `SET 'key' = 'value'`
    Set {
        key: String,
        key_pos: Pos,
        value: String,
    },
    /// `CREATE TABLE`
    CreateTable(Box<CreateTable>),
    /// `CREATE VIEW name [(columns)] AS query`
    CreateView(Box<CreateView>),
    /// One INSERT outside of a statement set.
    Insert(Box<Insert>),
    /// `EXECUTE STATEMENT SET BEGIN ... END`
    StatementSet(Vec<Insert>),
}

/// A view's definition.
#[derive(Debug)]
pub(crate) struct CreateView {
    pub name: Ident,
    pub if_not_exists: bool,
    pub columns: Vec<Ident>,
    pub query: Query,
}

/// One `INSERT INTO`.
#[derive(Debug)]
pub(crate) struct Insert {
    pub pos: Pos,
    pub table: Ident,
    pub columns: Vec<Ident>,
    pub query: Query,
}

/// A parser over the whole script, which also keeps the text for raw `SET` values.
pub(crate) struct ScriptParser<'a> {
    text: &'a str,
    end: Pos,
    pub(crate) parser: Parser<'a>,
}

/// All statements of a script.
pub(crate) fn parse(text: &str) -> Result<Vec<Statement>> {
    let dialect = FlinkDialect;
    let tokens = Tokenizer::new(&dialect, text)
        .tokenize_with_location()
        .map_err(|e| PlanError::new(e.location.into(), format!("syntax error: {}", e.message)))?;
    refuse_strange_tokens(&tokens)?;
    let end = tokens
        .iter()
        .rev()
        .find(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF))
        .map_or(Pos::default(), |t| t.span.end.into());
    let parser = Parser::new(&dialect).with_tokens_with_locations(tokens);
    let mut script = ScriptParser { text, end, parser };
    let mut statements = Vec::new();
    loop {
        while script.parser.consume_token(&Token::SemiColon) {}
        if script.parser.peek_token_ref().token == Token::EOF {
            return Ok(statements);
        }
        let statement = script.statement()?;
        statements.push(statement);
        script.end_of_statement()?;
    }
}

/// Hints are comments to the tokenizer; ignoring one silently would change what the user asked for.
fn refuse_strange_tokens(tokens: &[TokenWithSpan]) -> Result<()> {
    for token in tokens {
        let pos = token.span.start.into();
        match &token.token {
            Token::Whitespace(Whitespace::MultiLineComment(text)) if text.starts_with('+') => {
                return Err(PlanError::unsupported(
                    pos,
                    "a hint (/*+ ... */)",
                    "put the options into the table's WITH clause",
                ));
            }
            Token::DoubleQuotedString(text) => {
                return Err(PlanError::new(
                    pos,
                    format!("syntax error: strings are written '{text}' and quoted identifiers `{text}`"),
                ));
            }
            Token::Char(c) => {
                return Err(PlanError::new(
                    pos,
                    format!("syntax error: unexpected character '{c}'"),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

impl<'a> ScriptParser<'a> {
    /// The place of the next token; behind the last one, its end.
    pub(crate) fn pos(&self) -> Pos {
        self.end.or_span(self.parser.peek_token_ref().span)
    }

    /// Wraps a parser's error.
    pub(crate) fn lift<T>(
        &self,
        result: std::result::Result<T, sqlparser::parser::ParserError>,
    ) -> Result<T> {
        result.map_err(|e| PlanError::parser(e, self.pos()))
    }

    /// The next word in upper case, if the next token is an unquoted word.
    pub(crate) fn peek_word(&self, n: usize) -> Option<String> {
        match &self.parser.peek_nth_token_ref(n).token {
            Token::Word(word) if word.quote_style.is_none() => Some(word.value.to_uppercase()),
            _ => None,
        }
    }

    /// Consumes these words if they come next.
    pub(crate) fn take_words(&mut self, words: &[&str]) -> bool {
        let all = words
            .iter()
            .enumerate()
            .all(|(n, word)| self.peek_word(n).as_deref() == Some(*word));
        if all {
            for _ in words {
                self.parser.next_token();
            }
        }
        all
    }

    /// Requires these words.
    pub(crate) fn expect_words(&mut self, words: &[&str]) -> Result<()> {
        for word in words {
            if !self.take_words(&[word]) {
                return Err(self.unexpected(word));
            }
        }
        Ok(())
    }

    /// `syntax error: expected X, found Y` at the next token.
    pub(crate) fn unexpected(&self, expected: &str) -> PlanError {
        let found = self.parser.peek_token_ref();
        let found = match &found.token {
            Token::EOF => "the end of the script".to_owned(),
            token => token.to_string(),
        };
        PlanError::new(
            self.pos(),
            format!("syntax error: expected {expected}, found {found}"),
        )
    }

    /// A simple name; a catalogue and database before it must be Flink's defaults.
    pub(crate) fn name(&mut self) -> Result<Ident> {
        let pos = self.pos();
        let name = self.parser.parse_object_name(false);
        let name = self.lift(name)?;
        simple_name(&name, pos)
    }

    fn end_of_statement(&mut self) -> Result<()> {
        if self.parser.peek_token_ref().token == Token::EOF || self.parser.consume_token(&Token::SemiColon) {
            Ok(())
        } else {
            Err(self.unexpected("';' or the end of the statement"))
        }
    }

    fn statement(&mut self) -> Result<Statement> {
        let pos = self.pos();
        let kind = match self.peek_word(0).as_deref() {
            Some("SET") => self.set()?,
            Some("CREATE") => self.create(pos)?,
            Some("INSERT") => StatementKind::Insert(Box::new(self.insert()?)),
            Some("EXECUTE" | "BEGIN") => self.statement_set(pos)?,
            Some(word) => return Err(refused_statement(pos, word)),
            None => return Err(self.unexpected("a statement")),
        };
        Ok(Statement { pos, kind })
    }

    fn set(&mut self) -> Result<StatementKind> {
        self.parser.next_token();
        let key_pos = self.pos();
        if matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon) {
            return Err(self.unexpected("SET 'key' = 'value'"));
        }
        if let Token::SingleQuotedString(key) = self.parser.peek_token_ref().token.clone() {
            self.parser.next_token();
            let equals = self.parser.expect_token(&Token::Eq);
            self.lift(equals)?;
            let Token::SingleQuotedString(value) = self.parser.peek_token_ref().token.clone() else {
                return Err(self.unexpected("a value in single quotes"));
            };
            self.parser.next_token();
            return Ok(StatementKind::Set { key, key_pos, value });
        }
        self.raw_set(key_pos)
    }

    /// `SET key = value` without quotes: the value is the text up to the semicolon, as in Flink's old client.
    fn raw_set(&mut self, key_pos: Pos) -> Result<StatementKind> {
        let start = self.parser.peek_token_ref().span.start;
        while !matches!(self.parser.peek_token_ref().token, Token::EOF | Token::SemiColon) {
            self.parser.next_token();
        }
        let next = self.parser.peek_token_ref();
        let end = (next.token != Token::EOF).then_some(next.span.start);
        let raw = &self.text[offset(self.text, start)..end.map_or(self.text.len(), |e| offset(self.text, e))];
        let (key, value) = raw.split_once('=').ok_or_else(|| {
            PlanError::new(
                key_pos,
                "syntax error: SET is written SET 'key' = 'value'".to_owned(),
            )
        })?;
        let unquote = |text: &str| {
            let text = text.trim();
            text.strip_prefix('\'')
                .and_then(|t| t.strip_suffix('\''))
                .unwrap_or(text)
                .to_owned()
        };
        Ok(StatementKind::Set {
            key: unquote(key),
            key_pos,
            value: unquote(value),
        })
    }

    fn create(&mut self, pos: Pos) -> Result<StatementKind> {
        self.parser.next_token();
        if self.take_words(&["OR", "REPLACE"]) {
            return Err(PlanError::unsupported(
                pos,
                "CREATE OR REPLACE",
                "write CREATE once",
            ));
        }
        self.take_words(&["TEMPORARY"]);
        match self.peek_word(0).as_deref() {
            Some("TABLE") => {
                self.parser.next_token();
                Ok(StatementKind::CreateTable(Box::new(ddl::create_table(self)?)))
            }
            Some("VIEW") => {
                self.parser.next_token();
                Ok(StatementKind::CreateView(Box::new(self.create_view()?)))
            }
            Some(word) => Err(PlanError::unsupported(pos, &format!("CREATE {word}"), "")),
            None => Err(self.unexpected("TABLE or VIEW")),
        }
    }

    fn create_view(&mut self) -> Result<CreateView> {
        let if_not_exists = self.take_words(&["IF", "NOT", "EXISTS"]);
        let name = self.name()?;
        let columns = self.column_list()?;
        self.comment()?;
        self.expect_words(&["AS"])?;
        let query = self.query()?;
        Ok(CreateView {
            name,
            if_not_exists,
            columns,
            query,
        })
    }

    /// `COMMENT 'text'`, if it is there.
    pub(crate) fn comment(&mut self) -> Result<()> {
        if self.take_words(&["COMMENT"]) {
            let text = self.parser.parse_literal_string();
            self.lift(text)?;
        }
        Ok(())
    }

    /// `(a, b, c)`, if it is there. A parenthesis that opens a query is left alone.
    fn column_list(&mut self) -> Result<Vec<Ident>> {
        if self.parser.peek_token_ref().token != Token::LParen
            || matches!(self.peek_word(1).as_deref(), Some("SELECT" | "WITH" | "VALUES"))
        {
            return Ok(Vec::new());
        }
        self.parser.next_token();
        let columns = self.parser.parse_comma_separated(Parser::parse_identifier);
        let columns = self.lift(columns)?;
        let close = self.parser.expect_token(&Token::RParen);
        self.lift(close)?;
        Ok(columns)
    }

    fn query(&mut self) -> Result<Query> {
        match self.peek_word(0).as_deref() {
            Some("VALUES") => {
                return Err(PlanError::unsupported(
                    self.pos(),
                    "VALUES",
                    "read rows from a table, for example with the connector 'datagen' or 'filesystem'",
                ));
            }
            Some("SELECT" | "WITH" | "TABLE") => {}
            _ if self.parser.peek_token_ref().token == Token::LParen => {}
            _ => return Err(self.unexpected("SELECT")),
        }
        let query = self.parser.parse_query();
        self.lift(query).map(|q| *q)
    }

    fn insert(&mut self) -> Result<Insert> {
        let pos = self.pos();
        self.parser.next_token();
        if self.peek_word(0).as_deref() == Some("OVERWRITE") {
            return Err(PlanError::unsupported(
                self.pos(),
                "INSERT OVERWRITE",
                "write INSERT INTO",
            ));
        }
        self.expect_words(&["INTO"])?;
        let table = self.name()?;
        if self.peek_word(0).as_deref() == Some("PARTITION") {
            return Err(PlanError::unsupported(
                self.pos(),
                "INSERT INTO ... PARTITION",
                "select the partition's value as a column",
            ));
        }
        let columns = self.column_list()?;
        let query = self.query()?;
        Ok(Insert {
            pos,
            table,
            columns,
            query,
        })
    }

    /// `EXECUTE STATEMENT SET BEGIN ... END` and the older `BEGIN STATEMENT SET; ... END`.
    fn statement_set(&mut self, pos: Pos) -> Result<StatementKind> {
        if self.take_words(&["EXECUTE"]) {
            if !self.take_words(&["STATEMENT", "SET", "BEGIN"]) {
                if self.peek_word(0).as_deref() == Some("INSERT") {
                    return Ok(StatementKind::Insert(Box::new(self.insert()?)));
                }
                return Err(self.unexpected("STATEMENT SET BEGIN"));
            }
        } else {
            self.expect_words(&["BEGIN", "STATEMENT", "SET"])?;
            let semicolon = self.parser.expect_token(&Token::SemiColon);
            self.lift(semicolon)?;
        }
        let mut inserts = Vec::new();
        loop {
            while self.parser.consume_token(&Token::SemiColon) {}
            match self.peek_word(0).as_deref() {
                Some("END") => {
                    self.parser.next_token();
                    break;
                }
                Some("INSERT") => {
                    inserts.push(self.insert()?);
                    self.end_of_statement()?;
                }
                _ => return Err(self.unexpected("INSERT INTO or END")),
            }
        }
        if inserts.is_empty() {
            return Err(PlanError::new(pos, "the statement set has no INSERT"));
        }
        Ok(StatementKind::StatementSet(inserts))
    }
}

fn refused_statement(pos: Pos, word: &str) -> PlanError {
    let advice = match word {
        "SELECT" | "WITH" | "VALUES" => "write INSERT INTO a table, for example with the connector 'print'",
        "EXPLAIN" => "use the command `holdfast explain FILE.sql`",
        "RESET" => "leave the SET out",
        "DROP" | "ALTER" => "a script defines its own tables and views; leave the statement out",
        "USE" | "SHOW" | "DESCRIBE" | "DESC" | "LOAD" | "UNLOAD" | "ADD" | "REMOVE" | "UPDATE" | "DELETE"
        | "ANALYZE" | "CALL" | "TRUNCATE" | "COMPILE" | "STOP" | "HELP" | "QUIT" | "EXIT" | "CLEAR" => "",
        _ => {
            return PlanError::new(
                pos,
                format!(
                    "syntax error: expected a statement (SET, CREATE TABLE, CREATE VIEW, INSERT INTO, EXECUTE \
                     STATEMENT SET), found {word}"
                ),
            );
        }
    };
    let name = match word {
        "SELECT" | "WITH" | "VALUES" => "a query outside of INSERT INTO".to_owned(),
        word => format!("the statement {word}"),
    };
    PlanError::unsupported(pos, &name, advice)
}

/// The last part of a name whose other parts are Flink's default catalogue and database.
pub(crate) fn simple_name(name: &ObjectName, pos: Pos) -> Result<Ident> {
    let idents: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    let idents = idents.unwrap_or_default();
    let texts: Vec<&str> = idents.iter().map(|i| i.value.as_str()).collect();
    match (texts.as_slice(), idents.last()) {
        ([_] | ["default_database", _] | ["default_catalog", "default_database", _], Some(last)) => {
            Ok((*last).clone())
        }
        _ => Err(PlanError::unsupported(
            pos,
            &format!("the catalogue or database of '{name}'"),
            "every table lives in default_catalog.default_database: write its bare name",
        )),
    }
}

/// Byte offset of a location; the text's length if it lies behind the end.
fn offset(text: &str, location: Location) -> usize {
    let mut line = 1;
    let mut column = 1;
    for (at, c) in text.char_indices() {
        if (line, column) == (location.line, location.column) {
            return at;
        }
        if c == '\n' {
            line += 1;
            column = 1;
        } else {
            column += 1;
        }
    }
    text.len()
}
