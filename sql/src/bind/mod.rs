//! Binding: from syntax to logical plans. Names are resolved, types checked and made equal, and everything that is
//! not supported is refused by its name and place. Knows nothing of vertices.

pub(crate) mod aggregate;
pub(crate) mod call;
pub(crate) mod expr;
pub(crate) mod insert;
pub(crate) mod literal;
pub(crate) mod operator;
pub(crate) mod query;
pub(crate) mod special;
pub(crate) mod window;

use crate::error::Pos;
use arrow::datatypes::DataType;
use datafusion_common::ScalarValue;
use datafusion_expr::Expr;

/// A bound expression.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    /// The expression; its operands have the types that its operators want.
    pub expr: Expr,
    /// Its type.
    pub ty: DataType,
    /// Where it stands.
    pub pos: Pos,
}

impl Typed {
    /// A bound expression.
    pub(crate) fn new(expr: Expr, ty: DataType, pos: Pos) -> Self {
        Typed { expr, ty, pos }
    }

    /// A constant.
    pub(crate) fn literal(value: ScalarValue, pos: Pos) -> Self {
        let ty = value.data_type();
        Typed::new(Expr::Literal(value, None), ty, pos)
    }

    /// The value of a constant.
    pub(crate) fn as_literal(&self) -> Option<&ScalarValue> {
        match &self.expr {
            Expr::Literal(value, _) => Some(value),
            _ => None,
        }
    }

    /// The text of a constant string.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self.as_literal() {
            Some(ScalarValue::Utf8(Some(text))) => Some(text),
            _ => None,
        }
    }
}
