//! Formats from text to batches and back.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::options::test_table;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampMillisecondType};
use holdfast_dataflow::graph::TableSpec;
use proptest::prelude::*;

fn table(options: &[(&str, &str)], columns: &[(&str, DataType)]) -> TableSpec {
    test_table("filesystem", options, columns)
}

fn format(table: &TableSpec) -> Result<Format, ConnectorError> {
    Format::new(&Options::new(table, &keys_of(table))?)
}

/// Decodes everything, showing `step` bytes more each time.
fn decode_by(table: &TableSpec, text: &[u8], step: usize) -> Result<(RecordBatch, u64), ParseFailure> {
    let mut decoder = format(table).unwrap().decoder(&table.schema);
    let (mut start, mut end, mut line) = (0, 0, 1);
    loop {
        end = (end + step).min(text.len());
        let decoded = decoder.decode(&text[start..end], end == text.len(), line, usize::MAX)?;
        start += decoded.bytes;
        line += decoded.lines;
        if end == text.len() {
            assert_eq!(start, end, "everything is taken at the end");
            return Ok(decoder.flush().unwrap());
        }
    }
}

fn decode(table: &TableSpec, text: &str) -> Result<(RecordBatch, u64), ParseFailure> {
    decode_by(table, text.as_bytes(), usize::MAX / 2)
}

fn encode(table: &TableSpec, rows: &RecordBatch) -> Result<String, ConnectorError> {
    let encoder = format(table).unwrap().encoder();
    let mut out = Vec::new();
    let (columns, names) = (encoder.columns(rows)?, encoder.names(rows));
    for row in 0..rows.num_rows() {
        encoder.row(&mut out, &columns, &names, row)?;
    }
    Ok(String::from_utf8(out).unwrap())
}

const AB: [(&str, DataType); 2] = [("a", DataType::Int32), ("b", DataType::Utf8)];

fn strings(rows: &RecordBatch, column: usize) -> Vec<Option<String>> {
    rows.column(column)
        .as_string::<i32>()
        .iter()
        .map(|v| v.map(str::to_owned))
        .collect()
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|t| Some((*t).to_owned())).collect()
}

#[test]
fn csv_lines_of_every_kind() {
    let table = table(&[("format", "csv")], &AB);
    let text = "1,x\r\n 2 ,\"a, b\"\n\n3,\"two\nlines \"\"q\"\"\"\r\n4,ünï\n5,\"\"\n,y\n7,in \"side\n8,last";
    for step in 1..text.len() {
        let (rows, skipped) = decode_by(&table, text.as_bytes(), step).unwrap();
        assert_eq!(skipped, 0);
        let numbers: Vec<_> = rows.column(0).as_primitive::<Int32Type>().iter().collect();
        assert_eq!(
            numbers,
            [
                Some(1),
                Some(2),
                Some(3),
                Some(4),
                Some(5),
                None,
                Some(7),
                Some(8)
            ]
        );
        let wanted = some(&[
            "x",
            "a, b",
            "two\nlines \"q\"",
            "ünï",
            "",
            "y",
            "in \"side",
            "last",
        ]);
        assert_eq!(strings(&rows, 1), wanted);
    }
}

#[test]
fn csv_errors_name_line_column_and_text() {
    let table = table(&[("format", "csv")], &AB);
    let error = |text: &str| {
        let e = decode(&table, text).unwrap_err();
        format!("{}: {}", e.line, e.reason)
    };
    assert!(error("1,x\n\"2\",\"a\nb\"\nzwei,c\n").starts_with("4: column 'a': 'zwei' is no INT"));
    assert!(error("1,x\n2\n").starts_with("2: the record has 1 field, the table has 2 columns"));
    assert!(error("1,x,y\n").starts_with("1: the record has 3 fields"));
    assert!(error("1,\"x\",y\n").starts_with("1: more than 2 fields"));
    assert!(error("1,x\n2,\"y\n3,z\n").starts_with("2: a quoted field is not closed"));
    assert!(error("1,\"x\"y\n").starts_with("1: text follows the closing quote"));
    assert!(error("99999999999,x\n").contains("is no INT"));
}

#[test]
fn csv_errors_can_be_skipped_and_are_counted() {
    let table = table(&[("format", "csv"), ("csv.ignore-parse-errors", "true")], &AB);
    let text = "1,x\nbad,y\n2\n\"3\"x,y\n4,z\n5,\"open\n6,w\n";
    let (rows, skipped) = decode(&table, text).unwrap();
    let numbers: Vec<_> = rows.column(0).as_primitive::<Int32Type>().values().to_vec();
    assert_eq!(numbers, [1, 4, 6]);
    assert_eq!(strings(&rows, 1), some(&["x", "z", "w"]));
    assert_eq!(skipped, 4);
    let (rows, skipped) = decode_by(&table, &b"1,\xff\xfe\n2,x\n"[..], 3).unwrap();
    assert_eq!((rows.num_rows(), skipped), (1, 1));
}

#[test]
fn csv_characters_and_null_literals() {
    let options = [
        ("format", "csv"),
        ("csv.field-delimiter", "\\t"),
        ("csv.quote-character", "'"),
        ("csv.escape-character", "\\"),
        ("csv.null-literal", "n/a"),
        ("csv.allow-comments", "true"),
    ];
    let table = table(&options, &AB);
    let text = "# comment 'open\n1\t'it''s'\n2\tn/a\n3\t'n/a'\nn/a\ta\\\tb\n5\t\n";
    let (rows, _) = decode(&table, text).unwrap();
    let wanted = [Some("it's"), None, Some("n/a"), Some("a\tb"), Some("")];
    assert_eq!(strings(&rows, 1), wanted.map(|w| w.map(str::to_owned)));
    assert!(rows.column(0).is_null(3));
    let back = encode(&table, &rows).unwrap();
    assert_eq!(decode(&table, &back).unwrap().0, rows);
    let empty_null = super::tests::table(&[("format", "csv"), ("csv.null-literal", "")], &AB);
    let (rows, _) = decode(&empty_null, "1,\n2,\"\"\n").unwrap();
    assert_eq!(strings(&rows, 1), [None, Some(String::new())]);
    assert_eq!(encode(&empty_null, &rows).unwrap(), "1,\n2,\"\"\n");
}

#[test]
fn csv_without_quotes_refuses_what_it_cannot_write() {
    let plain = table(&[("format", "csv"), ("csv.disable-quote-character", "true")], &AB);
    let (rows, _) = decode(&plain, "1,\"x\"\n").unwrap();
    assert_eq!(strings(&rows, 1), some(&["\"x\""]));
    assert_eq!(encode(&plain, &rows).unwrap(), "1,\"x\"\n");
    let quoted = table(&[("format", "csv")], &AB);
    let (rows, _) = decode(&quoted, "1,\"x,y\"\n").unwrap();
    assert!(encode(&plain, &rows).unwrap_err().to_string().contains("'x,y'"));
}

#[test]
fn a_not_null_column_refuses_empty_fields() {
    let mut table = table(&[("format", "csv")], &AB);
    let fields: Vec<_> = table
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_nullable(false))
        .collect();
    table.schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    let error = decode(&table, ",x\n").unwrap_err();
    assert!(error.reason.contains("'a' is NOT NULL"), "{}", error.reason);
}

fn every_type() -> Vec<(&'static str, DataType)> {
    vec![
        ("b", DataType::Boolean),
        ("i8", DataType::Int8),
        ("i16", DataType::Int16),
        ("i64", DataType::Int64),
        ("f32", DataType::Float32),
        ("f64", DataType::Float64),
        ("dec", DataType::Decimal128(10, 2)),
        ("day", DataType::Date32),
        ("t0", DataType::Time32(TimeUnit::Second)),
        ("t9", DataType::Time64(TimeUnit::Nanosecond)),
        ("ts0", DataType::Timestamp(TimeUnit::Second, None)),
        ("ts3", DataType::Timestamp(TimeUnit::Millisecond, None)),
        (
            "ts6",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ),
        ("ts9", DataType::Timestamp(TimeUnit::Nanosecond, None)),
        ("bin", DataType::Binary),
        ("s", DataType::Utf8),
    ]
}

#[test]
fn every_type_is_read_and_written_alike() {
    let line = "true,-8,16,9000000000,1.5,1.0E10,12.30,2013-02-28,05:15:00,05:15:00.000000001,2013-01-01 05:15:00,2013-01-01 05:15:00.25,2013-01-01 05:15:00.000001Z,2013-01-01 05:15:00.000000001,aGk=,x\n";
    let csv = table(&[("format", "csv")], &every_type());
    let (rows, _) = decode(&csv, line).unwrap();
    assert_eq!(encode(&csv, &rows).unwrap(), line);
    for standard in ["SQL", "ISO-8601"] {
        let json = table(
            &[("format", "json"), ("json.timestamp-format.standard", standard)],
            &every_type(),
        );
        let text = encode(&json, &rows).unwrap();
        assert_eq!(decode(&json, &text).unwrap().0, rows, "{text}");
        assert_eq!(text.contains("2013-01-01T05:15:00.25"), standard == "ISO-8601");
    }
}

#[test]
fn json_lines_by_name() {
    let columns = [
        ("id", DataType::Int64),
        ("s", DataType::Utf8),
        ("t", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ];
    let table = table(&[("format", "json")], &columns);
    let text = concat!(
        "{\"s\": \"a\\u00fc\\n\\\"\", \"id\": 1, \"other\": {\"x\": [1, 2]}, \"t\": \"1970-01-01 00:00:01.5\"}\n",
        "\r\n",
        "  {\"id\": null, \"s\": {\"k\": 1}}\r\n",
        "{\"id\": 1, \"i\\u0064\": \"9007199254740993\", \"s\": 1.50}"
    );
    for step in [1, 7, 1000] {
        let (rows, _) = decode_by(&table, text.as_bytes(), step).unwrap();
        let ids: Vec<_> = rows.column(0).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(ids, [Some(1), None, Some(9_007_199_254_740_993)]);
        assert_eq!(strings(&rows, 1), some(&["aü\n\"", "{\"k\": 1}", "1.50"]));
        let times = rows.column(2).as_primitive::<TimestampMillisecondType>();
        assert_eq!((times.value(0), times.is_null(1)), (1500, true));
    }
}

#[test]
fn json_errors() {
    let strict = table(&[("format", "json"), ("json.fail-on-missing-field", "true")], &AB);
    let error = |text: &str| {
        let e = decode(&strict, text).unwrap_err();
        format!("{}: {}", e.line, e.reason)
    };
    assert!(error("{\"a\":1,\"b\":\"x\"}\n{\"a\":1}").starts_with("2: field 'b' is missing"));
    assert!(error("{\"a\":\"x\",\"b\":\"x\"}").starts_with("1: column 'a': 'x' is no INT"));
    assert!(error("{\"a\":[1],\"b\":\"x\"}").contains("'[1]' is no INT"));
    assert!(error("{\"a\":1").starts_with("1: no JSON object: EOF while parsing an object at character 6"));
    assert!(error("[1]").contains("no JSON object"));
    assert!(error("{} {}").contains("no JSON object"));
    let lenient = table(&[("format", "json"), ("json.ignore-parse-errors", "true")], &AB);
    let (rows, skipped) = decode(&lenient, "x\n{\"a\":1}\n{\"b\":\"k\",\"a\":\"q\"}\n{}\n").unwrap();
    assert_eq!((rows.num_rows(), skipped), (2, 2));
    let both = [
        ("format", "json"),
        ("json.ignore-parse-errors", "true"),
        ("json.fail-on-missing-field", "true"),
    ];
    assert!(format(&table(&both, &AB)).is_err());
}

#[test]
fn options_that_do_not_do_are_refused() {
    for (key, value, text) in [
        ("csv.field-delimiter", "ab", "one ASCII character"),
        ("csv.field-delimiter", "\"", "also the quote"),
        ("csv.array-element-delimiter", ";", "not supported"),
        ("csv.ignore-parse-errors", "maybe", "Boolean"),
        (
            "csv.ignore-parse-error",
            "true",
            "did you mean 'csv.ignore-parse-errors'",
        ),
        ("json.ignore-parse-errors", "true", "no option"),
        ("format", "avro", "csv, json"),
    ] {
        let mut options = vec![("format", "csv")];
        options.retain(|(k, _)| *k != key);
        options.push((key, value));
        let error = format(&table(&options, &AB)).unwrap_err().to_string();
        assert!(error.contains(text), "{key}: {error}");
    }
    let list = DataType::List(std::sync::Arc::new(arrow::datatypes::Field::new(
        "x",
        DataType::Int32,
        true,
    )));
    let error = check_schema("t", &table(&[], &[("l", list)]).schema).unwrap_err();
    assert!(error.to_string().contains("column 'l'"), "{error}");
}

proptest! {
    #[test]
    fn what_csv_writes_it_reads(
            values in prop::collection::vec((any::<Option<i32>>(), any::<Option<String>>()), 0..20),
            step in 1usize..30,
        ) {
        let table = table(&[("format", "csv"), ("csv.null-literal", "")], &AB);
        let numbers: arrow::array::Int32Array = values.iter().map(|v| v.0).collect();
        let texts: arrow::array::StringArray = values.iter().map(|v| v.1.clone()).collect();
        let columns: Vec<arrow::array::ArrayRef> = vec![std::sync::Arc::new(numbers), std::sync::Arc::new(texts)];
            let rows = RecordBatch::try_new(table.schema.clone(), columns).unwrap();
        let text = encode(&table, &rows).unwrap();
        prop_assert_eq!(decode_by(&table, text.as_bytes(), step).unwrap().0, rows.clone());
        let json = super::tests::table(&[("format", "json"), ("json.encode.ignore-null-fields", "true")], &AB);
        let text = encode(&json, &rows).unwrap();
        prop_assert_eq!(decode_by(&json, text.as_bytes(), step).unwrap().0, rows);
    }

    #[test]
    fn any_bytes_are_refused_or_read_whatever_the_windows(text in prop::collection::vec(prop::sample::select(b"1,\"\\\n\rx#{}:n".to_vec()), 0..60), step in 1usize..9) {
        let options = [("format", "csv"), ("csv.ignore-parse-errors", "true"), ("csv.escape-character", "\\"), ("csv.allow-comments", "true")];
        let table = table(&options, &AB);
        let whole = decode_by(&table, &text, 1000).unwrap();
        prop_assert_eq!(decode_by(&table, &text, step).unwrap(), whole);
        let json = super::tests::table(&[("format", "json"), ("json.ignore-parse-errors", "true")], &AB);
        let whole = decode_by(&json, &text, 1000).unwrap();
        prop_assert_eq!(decode_by(&json, &text, step).unwrap(), whole);
    }
}
