//! The text of a configuration as fields: one object, in which no field is there twice.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// What editors of another system put in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The fields of a JSON object, or what is wrong with the text.
pub(super) fn fields(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    match serde_json::from_slice(text) {
        Ok(Fields(map)) => Ok(map),
        Err(error) if error.is_data() => Err(error.to_string()),
        Err(error) => Err(format!("it is not valid JSON: {error}")),
    }
}

struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Fields, D::Error> {
        from.deserialize_map(EachOnce)
    }
}

/// A reader would take the last of several values, and a user who changed the first would not know why nothing happens.
struct EachOnce;

impl<'de> Visitor<'de> for EachOnce {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the fields of a configuration")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut pairs: M) -> Result<Fields, M::Error> {
        let mut map = Map::new();
        while let Some((name, value)) = pairs.next_entry::<String, Value>()? {
            let shown = name.escape_debug().to_string();
            if map.insert(name, value).is_some() {
                return Err(M::Error::custom(format_args!("`{shown}` is there twice")));
            }
        }
        Ok(Fields(map))
    }
}
