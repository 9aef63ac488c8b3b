//! Flink's lexical rules, as a dialect of sqlparser. Knows nothing of tables or types.

use sqlparser::ast::{Expr, Ident};
use sqlparser::dialect::Dialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// Marks `TABLE name` in an argument list: the parsed form is `Expr::Prefixed` with this prefix.
pub(crate) const TABLE_ARGUMENT: &str = "TABLE";

/// Identifiers are quoted with backticks, strings with single quotes, without escapes but the doubled quote.
#[derive(Debug)]
pub(crate) struct FlinkDialect;

impl Dialect for FlinkDialect {
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '`'
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphanumeric() || ch == '_' || ch == '$'
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    // Parsed, so that they are refused by name.
    fn supports_group_by_expr(&self) -> bool {
        true
    }

    fn supports_match_recognize(&self) -> bool {
        true
    }

    fn supports_table_versioning(&self) -> bool {
        true
    }

    /// `TABLE t` inside an expression stands only in the arguments of window table functions.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        if !parser.peek_keyword(Keyword::TABLE)
            || !matches!(parser.peek_nth_token_ref(1).token, Token::Word(_))
        {
            return None;
        }
        Some(table_argument(parser))
    }
}

fn table_argument(parser: &mut Parser) -> Result<Expr, ParserError> {
    let keyword = parser.next_token();
    let name = parser.parse_object_name(false)?;
    let mut parts = Vec::with_capacity(name.0.len());
    for part in name.0 {
        match part.as_ident() {
            Some(ident) => parts.push(ident.clone()),
            None => return parser.expected("a table's name", parser.peek_token()),
        }
    }
    if parser.peek_keyword(Keyword::PARTITION) {
        return parser.expected(
            "',' or ')' (PARTITION BY in a window table function is not supported yet)",
            parser.peek_token(),
        );
    }
    Ok(Expr::Prefixed {
        prefix: Ident::with_span(keyword.span, TABLE_ARGUMENT),
        value: Box::new(Expr::CompoundIdentifier(parts)),
    })
}
