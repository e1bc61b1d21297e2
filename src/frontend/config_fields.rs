//! One field of `config.json` at a time: the right JSON type, the right range, or an error with file, field and value.

use std::path::Path;

use serde_json::{Map, Value};

use super::error::{FrontendError, shown};

/// The fields of one configuration file, and the name to blame.
pub(super) struct Fields<'a> {
    pub(super) file: &'a Path,
    pub(super) map: &'a Map<String, Value>,
}

impl Fields<'_> {
    /// An error about `field`, with the value that stands in the file.
    pub(super) fn refuse(&self, field: &'static str, needs: impl Into<String>) -> FrontendError {
        let value = self
            .map
            .get(field)
            .map_or_else(|| "missing".to_owned(), shown);
        FrontendError::Field {
            file: self.file.to_path_buf(),
            field,
            value,
            needs: needs.into(),
        }
    }

    /// A whole number in 1..=`max`; `None` where the field is absent or null.
    pub(super) fn size(
        &self,
        field: &'static str,
        max: usize,
    ) -> Result<Option<usize>, FrontendError> {
        let Some(value) = self.present(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) if (1..=max).contains(&n) => Ok(Some(n)),
            _ => Err(self.refuse(field, format!("it must be a whole number from 1 to {max}"))),
        }
    }

    /// Like [`Fields::size`], but the field must be there.
    pub(super) fn required_size(
        &self,
        field: &'static str,
        max: usize,
    ) -> Result<usize, FrontendError> {
        self.size(field, max)?
            .ok_or_else(|| FrontendError::FieldMissing {
                file: self.file.to_path_buf(),
                field,
            })
    }

    /// A token id, or none where absent or null.
    pub(super) fn token_id(&self, field: &'static str) -> Result<Option<u32>, FrontendError> {
        let Some(value) = self.present(field) else {
            return Ok(None);
        };
        match value.as_u64().and_then(|n| i32::try_from(n).ok()) {
            Some(id) => Ok(Some(id as u32)),
            None => Err(self.refuse(field, "it must be one token id or null")),
        }
    }

    /// true or false; `default` where absent or null.
    pub(super) fn flag(&self, field: &'static str, default: bool) -> Result<bool, FrontendError> {
        match self.present(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.refuse(field, "it must be true or false")),
        }
    }

    /// A number that `accept`s, described by `needs`; `default` where absent or null.
    pub(super) fn number(
        &self,
        field: &'static str,
        default: f64,
        needs: &str,
        accept: impl Fn(f64) -> bool,
    ) -> Result<f64, FrontendError> {
        let Some(value) = self.present(field) else {
            return Ok(default);
        };
        match value.as_f64() {
            Some(number) if accept(number) => Ok(number),
            _ => Err(self.refuse(field, needs)),
        }
    }

    /// A string; `None` where absent or null.
    pub(super) fn text(&self, field: &'static str) -> Result<Option<&str>, FrontendError> {
        match self.present(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.refuse(field, "it must be a string")),
        }
    }

    /// Python writes None where it means the default: null is the same as absent.
    fn present(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }
}
