//! Expressions evaluated over a small batch with NULLs and edge values; `golden/expressions.txt` holds the results.

use super::golden::{check, folder};
use super::plan_after;
use crate::types;
use crate::{Binder, Catalog, Configuration, Script, StatementKind, script};
use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int8Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray, TimestampMillisecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use holdfast_dataflow::expr::ExprError;
use holdfast_dataflow::graph::{CalcSpec, JobGraph, OperatorSpec};
use std::sync::Arc;

/// The rows of the table `t`: usual values, edge values, NULLs.
fn batch(schema: &Arc<Schema>) -> RecordBatch {
    let columns: Vec<ArrayRef> = schema
        .fields()
        .iter()
        .map(|field| match (field.name().as_str(), field.data_type()) {
            ("i", _) => Arc::new(Int32Array::from(vec![Some(7), Some(i32::MAX), None])) as ArrayRef,
            ("j", _) => Arc::new(Int32Array::from(vec![Some(2), Some(0), Some(-3)])),
            ("y", _) => Arc::new(Int8Array::from(vec![Some(5), Some(-128), None])),
            ("l", _) => Arc::new(Int64Array::from(vec![
                Some(1_372_950_489_123),
                Some(i64::MIN),
                None,
            ])),
            ("f", _) => Arc::new(Float64Array::from(vec![Some(2.5), Some(-0.125), None])),
            ("d", ty) => Arc::new(
                Decimal128Array::from(vec![Some(12_345), Some(-9_999_999_999), None])
                    .with_data_type(ty.clone()),
            ),
            ("s", _) => Arc::new(StringArray::from(vec![Some("Hello, World"), Some(" 42 "), None])),
            ("u", _) => Arc::new(StringArray::from(vec![
                Some("2013-07-04 15:08:09"),
                Some("äöü"),
                None,
            ])),
            ("b", _) => Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
            ("dt", _) => Arc::new(Date32Array::from(vec![Some(15_890), Some(-1), None])),
            ("ts", DataType::Timestamp(..)) => Arc::new(TimestampMillisecondArray::from(vec![
                Some(1_372_950_489_123),
                Some(-1),
                None,
            ])),
            ("us", DataType::Timestamp(..)) => Arc::new(TimestampMicrosecondArray::from(vec![
                Some(1_359_676_799_999_999),
                Some(1_330_473_600_000_000),
                None,
            ])),
            (name, ty) => panic!("no values for {name} {ty}"),
        })
        .collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

/// What a worker does with a Calc.
fn calc(spec: &CalcSpec, batch: RecordBatch) -> Result<RecordBatch, ExprError> {
    let batch = match &spec.filter {
        Some(filter) => {
            let mask = filter.evaluate(&batch)?;
            filter_record_batch(&batch, arrow::array::AsArray::as_boolean(&mask)).unwrap()
        }
        None => batch,
    };
    let Some(projection) = &spec.projection else {
        return Ok(batch);
    };
    let columns = projection
        .iter()
        .map(|e| e.evaluate(&batch))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(Arc::clone(&spec.schema), columns).unwrap())
}

/// Runs the one vertex of a job that only reads, computes and writes.
fn run(graph: &JobGraph) -> Result<RecordBatch, ExprError> {
    assert_eq!(graph.vertices.len(), 1, "{}", graph.canonical_text());
    let mut rows = None;
    for node in &graph.vertices[0].chain {
        match &node.spec {
            OperatorSpec::Source(source) => rows = Some(batch(&source.table.schema)),
            OperatorSpec::Calc(spec) => rows = Some(calc(spec, rows.take().unwrap())?),
            OperatorSpec::Sink(_) => {}
            other => panic!("unexpected {}", other.describe()),
        }
    }
    Ok(rows.unwrap())
}

fn texts(rows: &RecordBatch) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(rows.column(0), &options).unwrap();
    (0..rows.num_rows())
        .map(|i| formatter.value(i).to_string())
        .collect::<Vec<_>>()
        .join(" | ")
}

/// The type that a query's first column has.
fn type_of(prelude: &str, query: &str) -> Result<String, String> {
    let mut job = Script {
        config: Configuration::new(),
        catalog: Catalog::default(),
        inserts: Vec::new(),
    };
    for statement in script::parse(prelude).map_err(|e| e.to_string())? {
        job.statement(statement).map_err(|e| e.to_string())?;
    }
    let insert = format!("INSERT INTO t {query}");
    let statement = script::parse(&insert).map_err(|e| e.to_string())?.remove(0);
    let StatementKind::Insert(insert) = statement.kind else {
        panic!("an INSERT");
    };
    let plan = Binder::new(&job.catalog)
        .query(&insert.query, statement.pos)
        .map_err(|e| e.message)?;
    Ok(types::name(plan.schema().field(0).data_type()))
}

/// `TYPE: value | value | value` of an expression, or its error.
fn evaluate(prelude: &str, expression: &str) -> String {
    let (expression, filter) = match expression.split_once(" WHERE ") {
        Some((expression, filter)) => (expression, format!(" WHERE {filter}")),
        None => (expression, String::new()),
    };
    let query = format!("SELECT {expression} AS x FROM t{filter}");
    let ty = match type_of(prelude, &query) {
        Ok(ty) => ty,
        Err(error) => return format!("refused: {error}"),
    };
    let sink = format!("CREATE TABLE sink (x {ty}) WITH ('connector' = 'print'); INSERT INTO sink {query}");
    let graph = match plan_after(prelude, &sink) {
        Ok(graph) => graph,
        Err(error) => return format!("refused: {}", error.message),
    };
    match run(&graph) {
        Ok(rows) => format!("{ty}: {}", texts(&rows)),
        Err(error) => format!("{ty}: error: {error}"),
    }
}

#[test]
fn expressions() {
    check(&folder().join("expressions.txt"), |prelude, cases| {
        let results: Vec<String> = cases.lines().map(|line| evaluate(prelude, line)).collect();
        results.join("\n")
    });
}

#[test]
fn a_not_null_column_refuses_null_when_it_runs() {
    let prelude = "CREATE TABLE t (i INT) WITH ('connector' = 'datagen');
                   CREATE TABLE o (x INT NOT NULL) WITH ('connector' = 'print')";
    let graph = plan_after(prelude, "INSERT INTO o SELECT i FROM t").unwrap();
    let error = run(&graph).unwrap_err();
    assert_eq!(error.reason, "NULL for the column o.x, which is NOT NULL");
    let graph = plan_after(prelude, "INSERT INTO o SELECT i FROM t WHERE i IS NOT NULL").unwrap();
    assert_eq!(texts(&run(&graph).unwrap()), "7 | 2147483647");
}

#[test]
fn the_left_side_of_and_spares_the_right_one() {
    let prelude = "CREATE TABLE t (i INT, j INT) WITH ('connector' = 'datagen');
                   CREATE TABLE o (x INT) WITH ('connector' = 'print')";
    for filter in [
        "j <> 0 AND i / j > 1",
        "j = 0 OR i / j > 1",
        "i / NULLIF(j, 0) > 1",
        "CASE WHEN j = 0 THEN FALSE ELSE i / j > 1 END",
    ] {
        let sql = format!("INSERT INTO o SELECT i FROM t WHERE {filter}");
        let graph = plan_after(prelude, &sql).unwrap();
        assert!(run(&graph).is_ok(), "{filter}: {:?}", run(&graph));
    }
    // A filter of a subquery protects the one around it.
    let sql = "INSERT INTO o SELECT i FROM (SELECT i, j FROM t WHERE j <> 0) WHERE i / j > 1";
    assert!(run(&plan_after(prelude, sql).unwrap()).is_ok());
    let sql = "INSERT INTO o SELECT i FROM t WHERE i / j > 1";
    assert_eq!(
        run(&plan_after(prelude, sql).unwrap()).unwrap_err().to_string(),
        "cannot evaluate ((i / j) > 1): division by zero"
    );
}
