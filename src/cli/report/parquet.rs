//! Rows as a Parquet file: one row group, every column optional.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use parquet::basic::{ConvertedType, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;
use serde_json::Value;

/// The file of rows whose columns are `[{"name", "kind"}]`, as `report.export` answers.
///
/// # Errors
/// What the library says; a column without a name is one.
pub(super) fn written(columns: &Value, rows: &[Value]) -> Result<Vec<u8>, ParquetError> {
    let columns: Vec<(&str, &str)> = columns
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|column| Some((column["name"].as_str()?, column["kind"].as_str()?)))
        .collect();
    let fields: Result<Vec<_>, _> = columns
        .iter()
        .map(|(name, kind)| field(name, kind).map(Arc::new))
        .collect();
    let schema = Type::group_type_builder("roadcall")
        .with_fields(fields?)
        .build()?;
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema), properties)?;
    let mut group = writer.next_row_group()?;
    for (name, kind) in &columns {
        let Some(mut column) = group.next_column()? else {
            break;
        };
        let cells: Vec<&Value> = rows.iter().map(|row| &row[*name]).collect();
        write(&mut column, kind, &cells)?;
        column.close()?;
    }
    group.close()?;
    writer.into_inner()
}

fn field(name: &str, kind: &str) -> Result<Type, ParquetError> {
    let physical = match kind {
        "whole" | "time" => Physical::INT64,
        "real" => Physical::DOUBLE,
        "bool" => Physical::BOOLEAN,
        _ => Physical::BYTE_ARRAY,
    };
    let builder =
        Type::primitive_type_builder(name, physical).with_repetition(Repetition::OPTIONAL);
    match kind {
        "time" => builder
            .with_logical_type(Some(LogicalType::timestamp(true, TimeUnit::MILLIS)))
            .build(),
        "whole" | "real" | "bool" => builder.build(),
        _ => builder.with_converted_type(ConvertedType::UTF8).build(),
    }
}

/// Writes the cells that have a value of the column's kind; the others are null.
fn write(
    column: &mut SerializedColumnWriter<'_>,
    kind: &str,
    cells: &[&Value],
) -> Result<(), ParquetError> {
    macro_rules! put {
        ($type:ty, $read:expr) => {{
            let found: Vec<Option<_>> = cells.iter().map(|cell| $read(*cell)).collect();
            let levels: Vec<i16> = found.iter().map(|cell| i16::from(cell.is_some())).collect();
            let values: Vec<_> = found.into_iter().flatten().collect();
            let typed = column.typed::<$type>();
            typed.write_batch(&values, Some(&levels), None)?;
        }};
    }
    match kind {
        "whole" => put!(Int64Type, Value::as_i64),
        "time" => put!(Int64Type, milliseconds),
        "real" => put!(DoubleType, Value::as_f64),
        "bool" => put!(BoolType, Value::as_bool),
        _ => put!(ByteArrayType, |cell: &Value| cell
            .as_str()
            .map(ByteArray::from)),
    }
    Ok(())
}

fn milliseconds(cell: &Value) -> Option<i64> {
    let time: DateTime<Utc> = cell.as_str()?.parse().ok()?;
    Some(time.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_reader_of_parquet_finds_what_was_written() {
        let columns = json!([
            { "name": "id", "kind": "text" }, { "name": "cents", "kind": "whole" }, { "name": "share", "kind": "real" },
            { "name": "flagged", "kind": "bool" }, { "name": "createdAt", "kind": "time" },
        ]);
        let rows = [
            json!({ "id": "a", "cents": 20000, "share": 0.5, "flagged": true, "createdAt": "2026-01-15T10:00:00.123Z" }),
            json!({ "id": "b", "cents": null, "share": null, "flagged": false }),
        ];
        let file = written(&columns, &rows).expect("written");
        let reader = SerializedFileReader::new(bytes::Bytes::from(file)).expect("a Parquet file");
        let mut found = reader.get_row_iter(None).expect("rows");
        let first = found.next().expect("one").expect("read").to_string();
        assert_eq!(
            first,
            "{id: \"a\", cents: 20000, share: 0.5, flagged: true, createdAt: 2026-01-15 10:00:00.123 +00:00}"
        );
        let second = found.next().expect("two").expect("read").to_string();
        assert_eq!(
            second,
            "{id: \"b\", cents: null, share: null, flagged: false, createdAt: null}"
        );
        assert!(found.next().is_none());
    }
}
