//! `--ipu_config_overrides "key=value,key=value"`: the syntax of Optimum Graphcore.
//!
//! The key must be in the configuration; the value is read as the type that stands there: `true`, `1`, `y`, `yes` and their opposites,
//! numbers, `[a b c]` for lists (spaces, as commas separate the pairs), anything else as text.

use serde_json::{Map, Number, Value, json};

use super::fields::{Type, field_named};

/// Puts the values of `text` in.
pub(super) fn apply(map: &mut Map<String, Value>, text: &str) -> Result<(), String> {
    for pair in text.split(',') {
        let pair = pair.trim();
        let Some((key, value)) = pair.split_once('=') else {
            return Err(format!("`{pair}` is not of the form key=value"));
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(field) = field_named(key) else {
            let what = match map.contains_key(key) {
                true => "has no meaning here",
                false => "is no field of an IPU configuration",
            };
            return Err(format!("`{key}` {what}"));
        };
        let value = read(field.ty, value);
        field.check(&value)?;
        map.insert(key.to_owned(), value);
    }
    Ok(())
}

/// `text` as a value of the type, or as the text it is, which the type check then refuses.
fn read(ty: Type, text: &str) -> Value {
    let plain = || Value::String(text.to_owned());
    match ty {
        _ if text.eq_ignore_ascii_case("none") => Value::Null,
        Type::Flag => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "y" | "yes" => json!(true),
            "false" | "0" | "n" | "no" => json!(false),
            _ => plain(),
        },
        Type::Count | Type::Seed => number(text).unwrap_or_else(plain),
        Type::Layers | Type::Splits => list(text).unwrap_or_else(plain),
        Type::Proportion => number(text).or_else(|| list(text)).unwrap_or_else(plain),
        Type::Object => serde_json::from_str(text).unwrap_or_else(|_| plain()),
        Type::OutputMode | Type::Text => plain(),
    }
}

fn number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(json!(whole));
    }
    let real: f64 = text.parse().ok()?;
    Number::from_f64(real).map(Value::Number)
}

/// `[a b c]`.
fn list(text: &str) -> Option<Value> {
    let inside = text.strip_prefix('[')?.strip_suffix(']')?;
    let numbers: Option<Vec<Value>> = inside.split_whitespace().map(number).collect();
    numbers.map(Value::Array)
}
