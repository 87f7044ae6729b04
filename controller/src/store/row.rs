//! Between columns and values: texts that are read through serde as the wire's are, times, counts.

use pureboot_protocol::Timestamp;
use serde::Serialize;
use serde::de::value::{Error, StringDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use sqlx::any::AnyTypeInfoKind;
use sqlx::{Row, ValueRef};

use crate::store::StoreError;

/// A connection of the database, in a transaction or not.
pub(super) type DbConnection = sqlx::AnyConnection;
/// A row of an answer.
pub(crate) type DbRow = sqlx::any::AnyRow;

/// A column that holds a text with a meaning: an id, an address, a word of a closed set.
pub(crate) fn word<T: DeserializeOwned>(
    row: &DbRow,
    column: &'static str,
) -> Result<T, StoreError> {
    read(column, row.try_get(column)?)
}

/// [`word`] that may be null.
pub(crate) fn word_opt<T: DeserializeOwned>(
    row: &DbRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    row.try_get::<Option<String>, _>(column)?.map(|text| read(column, text)).transpose()
}

fn read<T: DeserializeOwned>(column: &'static str, text: String) -> Result<T, StoreError> {
    let text: StringDeserializer<Error> = text.into_deserializer();
    T::deserialize(text).map_err(|error| StoreError::Value { column, message: error.to_string() })
}

/// A column that holds JSON.
pub(crate) fn json<T: DeserializeOwned>(
    row: &DbRow,
    column: &'static str,
) -> Result<T, StoreError> {
    let text: String = row.try_get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| StoreError::Value { column, message: error.to_string() })
}

/// [`json`] that may be null.
pub(crate) fn json_opt<T: DeserializeOwned>(
    row: &DbRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    row.try_get::<Option<String>, _>(column)?.map(|_| json(row, column)).transpose()
}

/// What [`json`] reads.
pub(crate) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is stored has names for keys")
}

/// A column that holds a time.
pub(crate) fn time(row: &DbRow, column: &'static str) -> Result<Timestamp, StoreError> {
    Ok(Timestamp::from_unix_ms(row.try_get(column)?))
}

/// [`time`] that may be null.
pub(crate) fn time_opt(row: &DbRow, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<Option<i64>, _>(column)?.map(Timestamp::from_unix_ms))
}

/// A column that is true or false; SQLite keeps 1 and 0.
pub(crate) fn flag(row: &DbRow, column: &'static str) -> Result<bool, StoreError> {
    let flag = flag_opt(row, column)?;
    flag.ok_or_else(|| StoreError::Value { column, message: "null".to_owned() })
}

/// [`flag`] that may be null.
pub(crate) fn flag_opt(row: &DbRow, column: &'static str) -> Result<Option<bool>, StoreError> {
    if row.try_get_raw(column)?.type_info().kind() == AnyTypeInfoKind::Bool {
        return Ok(row.try_get(column)?);
    }
    Ok(row.try_get::<Option<i64>, _>(column)?.map(|flag| flag != 0))
}

/// A column that holds a number that cannot be negative.
pub(crate) fn count<T: TryFrom<i64>>(row: &DbRow, column: &'static str) -> Result<T, StoreError> {
    let number: i64 = row.try_get(column)?;
    number
        .try_into()
        .map_err(|_| StoreError::Value { column, message: format!("{number} is out of range") })
}

/// [`count`] that may be null.
pub(crate) fn count_opt<T: TryFrom<i64>>(
    row: &DbRow,
    column: &'static str,
) -> Result<Option<T>, StoreError> {
    let number: Option<i64> = row.try_get(column)?;
    number.map(|_| count(row, column)).transpose()
}

/// A count as both databases keep it.
pub(crate) fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
