//! Token ids as JSON: nested arrays, or an object with `ids` (nested or flat) and, if flat, their `shape`.

use std::path::Path;

use serde_json::Value;

use super::{DataError, TokenArray};

/// The ids in the bytes of a `.json` file; `path` is named in errors.
pub fn parse(bytes: &[u8], path: &Path) -> Result<TokenArray, DataError> {
    let bad = |reason: String| DataError::Shape {
        path: path.to_path_buf(),
        reason,
    };
    let root: Value = serde_json::from_slice(bytes).map_err(|source| DataError::Json {
        path: path.to_path_buf(),
        source,
    })?;
    let (nested, told) = match &root {
        Value::Object(map) => {
            let ids = map
                .get("ids")
                .ok_or_else(|| bad("the object has no `ids`".into()))?;
            (
                ids,
                map.get("shape").map(told_shape).transpose().map_err(bad)?,
            )
        }
        other => (other, None),
    };
    let shape = nested_shape(nested).map_err(bad)?;
    let mut ids = Vec::new();
    collect(nested, &shape, &mut ids, path)?;
    match told {
        None => Ok(TokenArray {
            path: path.to_path_buf(),
            shape,
            ids,
        }),
        // A flat list takes the shape it is given; a nested one must have it.
        Some(told) if told == shape || (shape.len() == 1 && product(&told) == Some(ids.len())) => {
            Ok(TokenArray {
                path: path.to_path_buf(),
                shape: told,
                ids,
            })
        }
        Some(told) => Err(bad(format!(
            "`shape` is {told:?}, but `ids` has shape {shape:?}"
        ))),
    }
}

fn product(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent))
}

fn told_shape(value: &Value) -> Result<Vec<usize>, String> {
    let extents = value
        .as_array()
        .filter(|list| !list.is_empty())
        .ok_or("`shape` is no list of extents")?;
    extents
        .iter()
        .map(|extent| {
            let size = extent.as_u64().and_then(|n| usize::try_from(n).ok());
            size.ok_or_else(|| format!("`shape` has the extent {extent}"))
        })
        .collect()
}

/// The shape along the first elements; [`collect`] holds the others to it.
fn nested_shape(value: &Value) -> Result<Vec<usize>, String> {
    let mut shape = Vec::new();
    let mut here = value;
    while let Value::Array(list) = here {
        shape.push(list.len());
        match list.first() {
            Some(first) => here = first,
            None => return Ok(shape),
        }
    }
    if shape.is_empty() {
        Err("it is no array".into())
    } else {
        Ok(shape)
    }
}

fn collect(
    value: &Value,
    shape: &[usize],
    ids: &mut Vec<u32>,
    path: &Path,
) -> Result<(), DataError> {
    let ragged = |what: String| DataError::Shape {
        path: path.to_path_buf(),
        reason: what,
    };
    match (shape, value) {
        ([], number) => {
            let id = number.as_u64().and_then(|id| u32::try_from(id).ok());
            let shown = || match number {
                Value::Number(_) | Value::Bool(_) | Value::Null => number.to_string(),
                Value::String(_) => "a text".into(),
                Value::Object(_) => "an object".into(),
                _ => "a deeper list".into(),
            };
            let index = ids.len();
            ids.push(id.ok_or_else(|| DataError::NotAnId {
                path: path.to_path_buf(),
                index,
                value: shown(),
            })?);
            Ok(())
        }
        ([extent, inner @ ..], Value::Array(list)) if list.len() == *extent => list
            .iter()
            .try_for_each(|item| collect(item, inner, ids, path)),
        ([extent, ..], Value::Array(list)) => Err(ragged(format!(
            "its rows are ragged: one has {} entries where others have {extent}",
            list.len()
        ))),
        ([_, ..], _) => Err(ragged(
            "its rows are ragged: a number stands where others have a list".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TokenArray, DataError> {
        parse(text.as_bytes(), Path::new("t.json"))
    }

    #[test]
    fn reads_nested_lists_and_shaped_objects() {
        let nested = read("[[[1,2],[3,4],[5,6]]]").unwrap();
        assert_eq!(
            (&nested.shape[..], &nested.ids[..]),
            (&[1, 3, 2][..], &[1, 2, 3, 4, 5, 6][..])
        );
        assert_eq!(
            read(r#"{"shape":[1,3,2],"axes":["a"],"ids":[[[1,2],[3,4],[5,6]]]}"#).unwrap(),
            nested
        );
        assert_eq!(
            read(r#"{"shape":[1,3,2],"ids":[1,2,3,4,5,6]}"#).unwrap(),
            nested
        );
        assert_eq!(read("[7]").unwrap().shape, [1]);
    }

    #[test]
    fn refuses_everything_else_in_words() {
        for (text, what) in [
            ("", "JSON"),
            ("[1", "JSON"),
            ("7", "no array"),
            ("{}", "no `ids`"),
            ("[[1,2],[3]]", "ragged"),
            ("[[1,2],3]", "ragged"),
            ("[1,[2]]", "a deeper list at position 1"),
            ("[1,-2]", "-2 at position 1"),
            ("[1,2.5]", "2.5"),
            ("[1,\"x\"]", "a text"),
            (r#"[{"text": "x"}]"#, "an object at position 0"),
            ("[4294967296]", "4294967296"),
            (r#"{"shape":[2,2],"ids":[1,2,3]}"#, "`shape` is [2, 2]"),
            (r#"{"shape":[2,-2],"ids":[1,2,3]}"#, "extent -2"),
            (r#"{"shape":7,"ids":[1,2,3]}"#, "list of extents"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        assert!(read(&"[".repeat(100_000)).is_err());
    }
}
