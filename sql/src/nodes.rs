//! What streaming adds to DataFusion's logical plans: tables as sources of scans, window table functions, and the
//! properties that travel with columns (time attributes and window bounds).

use crate::catalog::Table;
use arrow::datatypes::{DataType, Field, SchemaRef, TimeUnit};
use datafusion_common::{Column, DFSchema, DFSchemaRef, DataFusionError, ExprSchema};
use datafusion_expr::logical_plan::{Extension, UserDefinedLogicalNodeCore};
use datafusion_expr::{Expr, LogicalPlan, TableSource};
use holdfast_dataflow::graph::WindowKind;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

/// Names of the columns that a window table function appends.
pub(crate) const WINDOW_COLUMNS: [&str; 3] = ["window_start", "window_end", "window_time"];

/// A table under a scan.
#[derive(Debug)]
pub(crate) struct ScanSource(pub Arc<Table>);

impl TableSource for ScanSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0.schema)
    }
}

/// The table of a scan.
pub(crate) fn scanned(source: &Arc<dyn TableSource>) -> Option<&Arc<Table>> {
    source.downcast_ref::<ScanSource>().map(|scan| &scan.0)
}

/// Window kinds with the traits that plans need; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Windows {
    /// Distance of two windows' starts; equal to the size for tumbling windows.
    pub slide_ms: i64,
    /// Length.
    pub size_ms: i64,
    /// Shift of the boundaries.
    pub offset_ms: i64,
}

impl Windows {
    /// Whether every instant lies in one window.
    pub(crate) fn tumbles(self) -> bool {
        self.slide_ms == self.size_ms
    }

    /// The form of the job graph.
    pub(crate) fn kind(self) -> WindowKind {
        if self.tumbles() {
            WindowKind::Tumble {
                size_ms: self.size_ms,
                offset_ms: self.offset_ms,
            }
        } else {
            WindowKind::Hop {
                slide_ms: self.slide_ms,
                size_ms: self.size_ms,
                offset_ms: self.offset_ms,
            }
        }
    }
}

/// `TABLE(TUMBLE(...))` or `TABLE(HOP(...))`: the input's columns and the window's three.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WindowTvf {
    /// The rows.
    pub input: LogicalPlan,
    /// Their time attribute.
    pub time: Column,
    /// The windows.
    pub windows: Windows,
    schema: DFSchemaRef,
}

impl WindowTvf {
    /// A plan that appends the window columns.
    pub(crate) fn plan(
        input: LogicalPlan,
        time: Column,
        windows: Windows,
    ) -> Result<LogicalPlan, DataFusionError> {
        let node = Self::new(input, time, windows)?;
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    fn new(input: LogicalPlan, time: Column, windows: Windows) -> Result<Self, DataFusionError> {
        let time_type = input.schema().field_from_column(&time)?.data_type().clone();
        let mut fields: Vec<_> = input
            .schema()
            .iter()
            .map(|(relation, field)| (relation.cloned(), Arc::clone(field)))
            .collect();
        for (name, ty) in WINDOW_COLUMNS.iter().zip(window_types(&time_type)) {
            fields.push((None, Arc::new(Field::new(*name, ty, true))));
        }
        let schema = DFSchema::new_with_metadata(fields, Default::default())?;
        Ok(WindowTvf {
            input,
            time,
            windows,
            schema: Arc::new(schema),
        })
    }
}

/// Types of window_start, window_end and window_time for a time attribute of a type.
pub(crate) fn window_types(time: &DataType) -> [DataType; 3] {
    let plain = DataType::Timestamp(TimeUnit::Millisecond, None);
    let zone = match time {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    [
        plain.clone(),
        plain,
        DataType::Timestamp(TimeUnit::Millisecond, zone),
    ]
}

impl PartialOrd for WindowTvf {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for WindowTvf {
    fn name(&self) -> &str {
        "WindowTvf"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        WINDOW_COLUMNS.iter().map(|name| (*name).to_owned()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WindowTvf: {:?} on {}", self.windows, self.time)
    }

    fn with_exprs_and_inputs(
        &self,
        exprs: Vec<Expr>,
        inputs: Vec<LogicalPlan>,
    ) -> Result<Self, DataFusionError> {
        let time = match exprs.into_iter().next() {
            Some(Expr::Column(column)) => column,
            _ => self.time.clone(),
        };
        let input = inputs
            .into_iter()
            .next()
            .ok_or_else(|| DataFusionError::Internal("a window table function has one input".into()))?;
        Self::new(input, time, self.windows)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let time = self.input.schema().maybe_index_of_column(&self.time)?;
        let mut needed: Vec<usize> = output_columns
            .iter()
            .copied()
            .filter(|i| *i < width)
            .chain([time])
            .collect();
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// What is known of a plan's columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Props {
    /// Whether the column is a time attribute.
    pub rowtime: Vec<bool>,
    /// The window that every row is attached to.
    pub window: Option<Attached>,
}

/// Which columns are the bounds of the row's window.
#[derive(Debug, Clone)]
pub(crate) struct Attached {
    /// The windows.
    pub windows: Windows,
    /// Per column: 0 start, 1 end, 2 time.
    pub roles: Vec<Option<usize>>,
}

impl Props {
    fn nothing(width: usize) -> Self {
        Props {
            rowtime: vec![false; width],
            window: None,
        }
    }

    /// The role of a column: 0 window_start, 1 window_end, 2 window_time.
    pub(crate) fn role(&self, column: usize) -> Option<usize> {
        self.window
            .as_ref()
            .and_then(|w| w.roles.get(column).copied().flatten())
    }
}

/// The properties of a plan's columns.
pub(crate) fn props(plan: &LogicalPlan) -> Props {
    let width = plan.schema().fields().len();
    match plan {
        LogicalPlan::TableScan(scan) => scan_props(scan, width),
        LogicalPlan::Filter(filter) => props(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => props(&alias.input),
        LogicalPlan::Projection(p) => carried(&props(&p.input), p.input.schema(), &p.expr),
        LogicalPlan::Aggregate(a) => {
            let mut out = carried(&props(&a.input), a.input.schema(), &a.group_expr);
            let extra = width - a.group_expr.len();
            out.rowtime = (0..a.group_expr.len()).map(|i| out.role(i) == Some(2)).collect();
            out.rowtime.extend(std::iter::repeat_n(false, extra));
            if let Some(window) = &mut out.window {
                window.roles.extend(std::iter::repeat_n(None, extra));
            }
            out
        }
        LogicalPlan::Union(union) => union_props(&union.inputs, width),
        LogicalPlan::Extension(extension) => match window_tvf(extension) {
            Some(tvf) => {
                let mut out = Props::nothing(width);
                out.rowtime[width - 1] = true;
                let mut roles = vec![None; width - 3];
                roles.extend([Some(0), Some(1), Some(2)]);
                out.window = Some(Attached {
                    windows: tvf.windows,
                    roles,
                });
                out
            }
            None => Props::nothing(width),
        },
        _ => Props::nothing(width),
    }
}

/// The node of an extension, if it is a window table function.
pub(crate) fn window_tvf(extension: &Extension) -> Option<&WindowTvf> {
    extension.node.as_any().downcast_ref::<WindowTvf>()
}

fn scan_props(scan: &datafusion_expr::TableScan, width: usize) -> Props {
    let mut out = Props::nothing(width);
    let Some(table) = scanned(&scan.source) else {
        return out;
    };
    if let Some((column, _)) = &table.watermark {
        let position = match &scan.projection {
            Some(columns) => columns.iter().position(|c| c == column),
            None => Some(*column),
        };
        if let Some(position) = position {
            out.rowtime[position] = true;
        }
    }
    out
}

/// Properties of columns that are passed on unchanged.
fn carried(input: &Props, schema: &DFSchema, exprs: &[Expr]) -> Props {
    let source = |expr: &Expr| match expr.clone().unalias() {
        Expr::Column(column) => schema.maybe_index_of_column(&column),
        _ => None,
    };
    let sources: Vec<Option<usize>> = exprs.iter().map(source).collect();
    Props {
        rowtime: sources
            .iter()
            .map(|s| s.is_some_and(|s| input.rowtime[s]))
            .collect(),
        window: input.window.as_ref().map(|window| Attached {
            windows: window.windows,
            roles: sources.iter().map(|s| s.and_then(|s| window.roles[s])).collect(),
        }),
    }
}

/// A union's column is what it is in every input.
fn union_props(inputs: &[Arc<LogicalPlan>], width: usize) -> Props {
    let mut all = inputs.iter().map(|input| props(input));
    let Some(mut out) = all.next() else {
        return Props::nothing(width);
    };
    for other in all {
        for (mine, theirs) in out.rowtime.iter_mut().zip(other.rowtime) {
            *mine &= theirs;
        }
        out.window = match (out.window, other.window) {
            (Some(a), Some(b)) if a.windows == b.windows => Some(Attached {
                windows: a.windows,
                roles: a
                    .roles
                    .iter()
                    .zip(b.roles)
                    .map(|(a, b)| if *a == b { *a } else { None })
                    .collect(),
            }),
            _ => None,
        };
    }
    out
}
