//! CloudWatch's preferred wire format, rpc-v2-cbor, as far as its operations need it: CBOR in and
//! out of the same [`Value`] that its JSON is read from and written to.
//!
//! Source: <https://smithy.io/2.0/additional-specs/protocols/smithy-rpc-v2.html>

use minicbor::data::{Tag, Type};
use minicbor::decode::{Decoder, Error};
use minicbor::encode::Encoder;
use serde_json::{Map, Number, Value};

/// Deepest nesting that is read; the operations' own is six.
const MAX_DEPTH: usize = 16;

/// Seconds since the Unix epoch.
///
/// Source: <https://www.rfc-editor.org/rfc/rfc8949.html#section-3.4.2>
const EPOCH: Tag = Tag::new(1);

/// Members of answers that are timestamps, or lists of them: CBOR marks those, JSON does not.
const TIMESTAMPS: [&str; 2] = ["Timestamp", "Timestamps"];

/// The value in `bytes`. Timestamps become their number of seconds.
///
/// # Errors
///
/// Where `bytes` is no CBOR, has more behind its value, nests too deeply, or has in it what no
/// operation's input has: byte strings, numbers beyond 64 bits, keys other than text.
pub fn decode(bytes: &[u8]) -> Result<Value, Error> {
    let mut decoder = Decoder::new(bytes);
    let value = value(&mut decoder, MAX_DEPTH)?;
    match decoder.position() == bytes.len() {
        true => Ok(value),
        false => Err(Error::message("there is more behind the value")),
    }
}

fn value(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, Error> {
    let deeper = || depth.checked_sub(1).ok_or_else(|| Error::message("nested too deeply"));
    #[expect(clippy::wildcard_enum_match_arm, reason = "what is not listed is not taken")]
    Ok(match decoder.datatype()? {
        Type::Null | Type::Undefined => {
            decoder.skip()?;
            Value::Null
        }
        Type::Bool => decoder.bool()?.into(),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64()?.into(),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => decoder.i64()?.into(),
        Type::F32 => f64::from(decoder.f32()?).into(),
        Type::F64 => decoder.f64()?.into(),
        Type::String | Type::StringIndef => text(decoder)?.into(),
        Type::Tag => {
            decoder.tag()?;
            value(decoder, deeper()?)?
        }
        Type::Array | Type::ArrayIndef => {
            let length = decoder.array()?;
            let mut items = Vec::new();
            while more(decoder, length, items.len())? {
                items.push(value(decoder, deeper()?)?);
            }
            items.into()
        }
        Type::Map | Type::MapIndef => {
            let length = decoder.map()?;
            let (mut members, mut read) = (Map::new(), 0);
            while more(decoder, length, read)? {
                members.insert(text(decoder)?, value(decoder, deeper()?)?);
                read += 1;
            }
            members.into()
        }
        other => return Err(Error::type_mismatch(other)),
    })
}

/// Whether another item follows `read` ones in a collection of `length`, or of unknown length.
fn more(decoder: &mut Decoder<'_>, length: Option<u64>, read: usize) -> Result<bool, Error> {
    match length {
        Some(length) => Ok((read as u64) < length),
        None if decoder.datatype()? == Type::Break => decoder.skip().map(|()| false),
        None => Ok(true),
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, Error> {
    decoder.str_iter()?.collect()
}

/// `value` as CBOR.
#[must_use]
pub fn encode(value: &Value) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    match write(&mut encoder, value, false) {
        Ok(()) => encoder.into_writer(),
        // Writing into a vector does not fail; the type cannot say so.
        Err(_) => Vec::new(),
    }
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write(encoder: &mut Encoder<Vec<u8>>, value: &Value, timestamp: bool) -> Written {
    match value {
        Value::Null => encoder.null()?.ok(),
        Value::Bool(value) => encoder.bool(*value)?.ok(),
        Value::Number(number) if timestamp => {
            encoder.tag(EPOCH)?.f64(number.as_f64().unwrap_or_default())?.ok()
        }
        Value::Number(number) => number_of(encoder, number),
        Value::String(text) => encoder.str(text)?.ok(),
        Value::Array(items) => {
            encoder.array(items.len() as u64)?;
            items.iter().try_for_each(|item| write(encoder, item, timestamp))
        }
        Value::Object(members) => {
            encoder.map(members.len() as u64)?;
            members.iter().try_for_each(|(key, value)| {
                encoder.str(key)?;
                write(encoder, value, TIMESTAMPS.contains(&key.as_str()))
            })
        }
    }
}

fn number_of(encoder: &mut Encoder<Vec<u8>>, number: &Number) -> Written {
    match (number.as_u64(), number.as_i64()) {
        (Some(number), _) => encoder.u64(number)?.ok(),
        (None, Some(number)) => encoder.i64(number)?.ok(),
        (None, None) => encoder.f64(number.as_f64().unwrap_or_default())?.ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9_f64).prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map("[a-zA-Z]{0,6}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(value in values()) {
            prop_assert_eq!(decode(&encode(&value)).unwrap(), value);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&value)).unwrap(), value);
            }
        }
    }

    #[test]
    fn timestamps_are_tagged_and_nothing_else_is() {
        let bytes = encode(&json!({ "Timestamps": [1.0], "Values": [1.0] }));
        let tags = bytes.iter().filter(|byte| **byte == 0xc1).count();
        assert_eq!(tags, 1, "{bytes:?}");
    }

    #[test]
    fn collections_of_unknown_length_are_read() {
        // {_ "a": [_ 1, 2]}
        let bytes = [0xbf, 0x61, b'a', 0x9f, 0x01, 0x02, 0xff, 0xff];
        assert_eq!(decode(&bytes).unwrap(), json!({ "a": [1, 2] }));
    }

    #[test]
    fn bottomless_nesting_is_refused() {
        decode(&[0x81; 100_000]).unwrap_err();
        decode(&[0xc1; 100_000]).unwrap_err();
    }
}
