//! The grammar of CREATE TABLE. Checks syntax only; names and types are checked by the catalogue.

use super::script::ScriptParser;
use crate::error::{PlanError, Pos, Result};
use crate::types::{self, SqlType};
use sqlparser::ast::{Expr, Ident};
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

/// A table's definition.
#[derive(Debug)]
pub(crate) struct CreateTable {
    pub name: Ident,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDef>,
    pub watermark: Option<WatermarkDef>,
    pub primary_key: Option<(Pos, Vec<Ident>)>,
    /// Options in the order of the text: key, place of the key, value.
    pub options: Vec<(String, Pos, String)>,
    /// Place of WITH, or of the statement's end if there is none.
    pub with_pos: Pos,
}

/// One column.
#[derive(Debug)]
pub(crate) struct ColumnDef {
    pub name: Ident,
    pub kind: ColumnKind,
}

/// Where a column's value comes from.
#[derive(Debug)]
pub(crate) enum ColumnKind {
    /// The connector.
    Physical(SqlType),
    /// An expression over the physical columns.
    Computed(Box<Expr>),
}

/// `WATERMARK FOR column AS expression`
#[derive(Debug)]
pub(crate) struct WatermarkDef {
    pub column: Ident,
    pub expression: Expr,
    pub pos: Pos,
}

/// Everything after `CREATE [TEMPORARY] TABLE`.
pub(crate) fn create_table(script: &mut ScriptParser<'_>) -> Result<CreateTable> {
    let if_not_exists = script.take_words(&["IF", "NOT", "EXISTS"]);
    let name = script.name()?;
    let mut table = CreateTable {
        name,
        if_not_exists,
        columns: Vec::new(),
        watermark: None,
        primary_key: None,
        options: Vec::new(),
        with_pos: Pos::default(),
    };
    refuse_clause(script)?;
    if script.peek_word(0).as_deref() == Some("WITH") {
        return Err(PlanError::unsupported(
            script.pos(),
            "CREATE TABLE without columns (LIKE or AS SELECT)",
            "write the columns out",
        ));
    }
    expect(script, &Token::LParen)?;
    loop {
        element(script, &mut table)?;
        if !script.parser.consume_token(&Token::Comma) {
            break;
        }
    }
    expect(script, &Token::RParen)?;
    script.comment()?;
    refuse_clause(script)?;
    table.with_pos = script.pos();
    if script.take_words(&["WITH"]) {
        options(script, &mut table)?;
    }
    refuse_clause(script)?;
    Ok(table)
}

fn expect(script: &mut ScriptParser<'_>, token: &Token) -> Result<()> {
    if script.parser.consume_token(token) {
        Ok(())
    } else {
        Err(script.unexpected(&format!("'{token}'")))
    }
}

/// Clauses of Flink's CREATE TABLE that are not there yet.
fn refuse_clause(script: &ScriptParser<'_>) -> Result<()> {
    let (feature, advice) = match script.peek_word(0).as_deref() {
        Some("PARTITIONED") => ("PARTITIONED BY", "leave it out"),
        Some("DISTRIBUTED") => ("DISTRIBUTED BY", "leave it out"),
        Some("LIKE") => ("CREATE TABLE ... LIKE", "write the columns out"),
        Some("AS") => (
            "CREATE TABLE ... AS SELECT",
            "write CREATE TABLE, then INSERT INTO",
        ),
        _ => return Ok(()),
    };
    Err(PlanError::unsupported(script.pos(), feature, advice))
}

/// A column, a watermark or a constraint.
fn element(script: &mut ScriptParser<'_>, table: &mut CreateTable) -> Result<()> {
    let pos = script.pos();
    match (script.peek_word(0).as_deref(), script.peek_word(1).as_deref()) {
        (Some("WATERMARK"), Some("FOR")) => {
            script.expect_words(&["WATERMARK", "FOR"])?;
            watermark(script, table, pos)
        }
        (Some("PRIMARY"), Some("KEY")) => {
            script.expect_words(&["PRIMARY", "KEY"])?;
            let columns = parenthesized(script)?;
            primary_key(script, table, pos, columns)
        }
        (Some("CONSTRAINT"), _) => {
            script.expect_words(&["CONSTRAINT"])?;
            script.name()?;
            script.expect_words(&["PRIMARY", "KEY"])?;
            let columns = parenthesized(script)?;
            primary_key(script, table, pos, columns)
        }
        (Some("UNIQUE"), Some("KEY") | None) => Err(PlanError::unsupported(pos, "UNIQUE", "leave it out")),
        _ => column(script, table),
    }
}

fn parenthesized(script: &mut ScriptParser<'_>) -> Result<Vec<Ident>> {
    expect(script, &Token::LParen)?;
    let columns = script.parser.parse_comma_separated(Parser::parse_identifier);
    let columns = script.lift(columns)?;
    expect(script, &Token::RParen)?;
    Ok(columns)
}

fn primary_key(
    script: &mut ScriptParser<'_>,
    table: &mut CreateTable,
    pos: Pos,
    columns: Vec<Ident>,
) -> Result<()> {
    if !script.take_words(&["NOT", "ENFORCED"]) {
        return Err(PlanError::new(
            script.pos(),
            "a PRIMARY KEY is not enforced by a stream: write PRIMARY KEY (...) NOT ENFORCED",
        ));
    }
    if table.primary_key.is_some() {
        return Err(PlanError::new(pos, "the table has a second PRIMARY KEY"));
    }
    table.primary_key = Some((pos, columns));
    Ok(())
}

fn watermark(script: &mut ScriptParser<'_>, table: &mut CreateTable, pos: Pos) -> Result<()> {
    let column = script.parser.parse_identifier();
    let column = script.lift(column)?;
    if script.parser.peek_token_ref().token == Token::Period {
        return Err(PlanError::unsupported(
            script.pos(),
            "a watermark on a nested field",
            "make it a computed column first",
        ));
    }
    script.expect_words(&["AS"])?;
    let expression = script.parser.parse_expr();
    let expression = script.lift(expression)?;
    if table.watermark.is_some() {
        return Err(PlanError::new(pos, "the table has a second WATERMARK"));
    }
    table.watermark = Some(WatermarkDef {
        column,
        expression,
        pos,
    });
    Ok(())
}

fn column(script: &mut ScriptParser<'_>, table: &mut CreateTable) -> Result<()> {
    let name = script.parser.parse_identifier();
    let name = script.lift(name)?;
    if script.take_words(&["AS"]) {
        let expression = script.parser.parse_expr();
        let kind = ColumnKind::Computed(Box::new(script.lift(expression)?));
        script.comment()?;
        table.columns.push(ColumnDef { name, kind });
        return Ok(());
    }
    refuse_metadata(script)?;
    let mut ty = data_type(script)?;
    refuse_metadata(script)?;
    if script.take_words(&["NOT", "NULL"]) {
        ty.nullable = false;
    } else {
        script.take_words(&["NULL"]);
    }
    let pos = script.pos();
    if script.take_words(&["PRIMARY", "KEY"]) {
        primary_key(script, table, pos, vec![name.clone()])?;
    }
    script.comment()?;
    if !matches!(script.parser.peek_token_ref().token, Token::Comma | Token::RParen) {
        return Err(script.unexpected("',' or ')' after the column"));
    }
    table.columns.push(ColumnDef {
        name,
        kind: ColumnKind::Physical(ty),
    });
    Ok(())
}

fn refuse_metadata(script: &ScriptParser<'_>) -> Result<()> {
    if script.peek_word(0).as_deref() == Some("METADATA") {
        return Err(PlanError::unsupported(
            script.pos(),
            "a METADATA column",
            "the connectors here offer no metadata; leave the column out",
        ));
    }
    Ok(())
}

/// A type as Flink writes it.
fn data_type(script: &mut ScriptParser<'_>) -> Result<SqlType> {
    let pos = script.pos();
    let word = script.peek_word(0).unwrap_or_default();
    if let "ARRAY" | "MAP" | "ROW" | "MULTISET" | "RAW" | "INTERVAL" | "STRUCTURED" | "VARIANT" =
        word.as_str()
    {
        return Err(PlanError::unsupported(
            pos,
            &format!("the type {word}"),
            "use plain columns",
        ));
    }
    if word == "TIMESTAMP" {
        return timestamp(script, pos);
    }
    let ty = script.parser.parse_data_type();
    types::from_ast(&script.lift(ty)?, pos)
}

/// `TIMESTAMP [(p)] [WITHOUT TIME ZONE | WITH [LOCAL] TIME ZONE]`
fn timestamp(script: &mut ScriptParser<'_>, pos: Pos) -> Result<SqlType> {
    script.expect_words(&["TIMESTAMP"])?;
    let mut precision = 6;
    if script.parser.consume_token(&Token::LParen) {
        let number = script.parser.parse_literal_uint();
        precision = script.lift(number)?;
        expect(script, &Token::RParen)?;
    }
    let local = if script.take_words(&["WITH"]) {
        if !script.take_words(&["LOCAL"]) {
            return Err(PlanError::unsupported(
                pos,
                "TIMESTAMP WITH TIME ZONE",
                "use TIMESTAMP_LTZ",
            ));
        }
        script.expect_words(&["TIME", "ZONE"])?;
        true
    } else {
        if script.take_words(&["WITHOUT"]) {
            script.expect_words(&["TIME", "ZONE"])?;
        }
        false
    };
    types::timestamp(precision, local, pos)
}

fn options(script: &mut ScriptParser<'_>, table: &mut CreateTable) -> Result<()> {
    expect(script, &Token::LParen)?;
    loop {
        let pos = script.pos();
        let key = string(script, "an option's name in single quotes")?;
        expect(script, &Token::Eq)?;
        let value = string(script, "the option's value in single quotes")?;
        if table.options.iter().any(|(known, _, _)| *known == key) {
            return Err(PlanError::new(pos, format!("the option '{key}' is given twice")));
        }
        table.options.push((key, pos, value));
        if !script.parser.consume_token(&Token::Comma) {
            break;
        }
    }
    expect(script, &Token::RParen)
}

fn string(script: &mut ScriptParser<'_>, expected: &str) -> Result<String> {
    match script.parser.peek_token_ref().token.clone() {
        Token::SingleQuotedString(text) => {
            script.parser.next_token();
            Ok(text)
        }
        _ => Err(script.unexpected(expected)),
    }
}
