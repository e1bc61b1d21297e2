//! One field of a JSON object, read without keeping the others.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Names of other fields that an error shows, at most.
pub(super) const NAMES_SHOWN: usize = 20;

/// What a line has under the name that is looked for.
pub(super) enum Found {
    /// A text, which was put where it belongs.
    Text,
    /// Something else.
    NoText,
    /// Nothing, but these names (and more).
    Others(Vec<String>),
}

/// Puts the text of the field `name` into `into`. As everywhere in JSON, the last of several fields of a name counts.
pub(super) struct Field<'a> {
    name: &'a str,
    into: &'a mut String,
}

impl<'a> Field<'a> {
    pub(super) fn of(name: &'a str, into: &'a mut String) -> Field<'a> {
        Field { name, into }
    }

    pub(super) fn read(self, line: &[u8]) -> serde_json::Result<Found> {
        let mut json = serde_json::Deserializer::from_slice(line);
        let found = json.deserialize_map(self)?;
        json.end()?;
        Ok(found)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        let (mut found, mut names) = (None, Vec::new());
        while let Some(name) = object.next_key::<String>()? {
            if name == self.name {
                found = Some(object.next_value_seed(TextInto(self.into))?);
            } else {
                object.next_value::<IgnoredAny>()?;
                names.extend((names.len() < NAMES_SHOWN).then_some(name));
            }
        }
        Ok(found.unwrap_or(Found::Others(names)))
    }
}

/// A value whose text is wanted.
struct TextInto<'a>(&'a mut String);

impl<'de> DeserializeSeed<'de> for TextInto<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Found, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TextInto<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        self.0.clear();
        self.0.push_str(text);
        Ok(Found::Text)
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::NoText)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::NoText)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::NoText)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::NoText)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::NoText)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Found, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Found::NoText)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Found::NoText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_among_others() {
        let read = |line: &str| {
            let mut text = "old".to_owned();
            let found = Field::of("text", &mut text).read(line.as_bytes());
            found.map(|found| match found {
                Found::Text => text,
                Found::NoText => "no text".to_owned(),
                Found::Others(names) => format!("only {}", names.join(", ")),
            })
        };
        let line = r#" {"a": [1, {"text": 2}], "text": "b\\u00e9\\n", "c": null} "#;
        assert_eq!(read(&line.replace("\\\\", "\\")).unwrap(), "bé\n");
        assert_eq!(read(r#"{"text": "a", "text": "b"}"#).unwrap(), "b");
        for value in [
            "null",
            "true",
            "7",
            "-7",
            "0.5",
            "[\"a\"]",
            "{\"text\": \"a\"}",
        ] {
            assert_eq!(read(&format!("{{\"text\": {value}}}")).unwrap(), "no text");
        }
        assert_eq!(read(r#"{"x": 1, "y": ""}"#).unwrap(), "only x, y");
        for line in ["", "[1]", "{\"text\": \"a\"", "{\"text\": \"a\"} x", "7"] {
            assert!(read(line).is_err(), "{line}");
        }
    }
}
