//! Reads a value as its JSON Schema says. serde alone would also take a list for a struct, field by field, so that
//! `[lon, lat]` would silently become a place with the two swapped, and null for a map; and it would refuse `5.0` where
//! the schema says integer, which to JSON Schema is one.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde_json::{Error, Number, Value};

/// A value to be read so.
#[derive(Clone, Copy)]
pub(super) struct Strict<'a>(pub &'a Value);

/// The whole number that a float is; 2^64 is the first that fits no more.
fn whole(number: &Number) -> Option<u64> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    let fits = float.fract() == 0.0 && (0.0..18_446_744_073_709_551_616.0).contains(&float);
    fits.then_some(float as u64)
}

macro_rules! integers {
    ($($method:ident)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.as_number().and_then(whole) {
                Some(whole) => visitor.visit_u64(whole),
                None => self.deserialize_any(visitor),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Strict<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(items) => {
                let mut items = SeqDeserializer::new(items.iter().map(Strict));
                let value = visitor.visit_seq(&mut items)?;
                items.end().map(|()| value)
            }
            Value::Object(map) => {
                let fields = map
                    .iter()
                    .map(|(name, value)| (name.as_str(), Strict(value)));
                let mut fields = MapDeserializer::new(fields);
                let value = visitor.visit_map(&mut fields)?;
                fields.end().map(|()| value)
            }
            scalar => scalar.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            Value::Null => Err(Error::invalid_type(Unexpected::Unit, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        // A word; what a variant holds beside its name is read as serde reads it.
        self.0.deserialize_enum(name, variants, visitor)
    }

    integers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct
        identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Strict<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair {
        a: u64,
        b: Option<u8>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Phone,
    }

    #[test]
    fn a_word_is_a_variant() {
        let read = |value: &Value| Kind::deserialize(Strict(value));
        assert_eq!(read(&json!("phone")).expect("a variant"), Kind::Phone);
        assert!(read(&json!("fax")).is_err() && read(&json!(0)).is_err());
    }

    #[test]
    fn a_struct_is_an_object_and_a_whole_float_an_integer() {
        let read = |value: &Value| Pair::deserialize(Strict(value)).map_err(|e| e.to_string());
        let pair = Pair { a: 5, b: Some(2) };
        assert_eq!(read(&json!({ "a": 5.0, "b": 2, "c": [1] })), Ok(pair));
        assert_eq!(
            read(&json!([5, 2])),
            Err("invalid type: sequence, expected struct Pair".to_owned())
        );
        for wrong in [json!(5.5), json!(-1.0), json!(1e20), json!("5")] {
            assert!(read(&json!({ "a": wrong })).is_err(), "{wrong}");
        }
        assert!(read(&json!({ "a": 1, "b": 256.0 })).is_err());
        assert!(serde_json::Map::deserialize(Strict(&json!(null))).is_err());
    }
}
