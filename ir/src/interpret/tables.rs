//! Rows of a table read, added to and replaced by integer id. A table may be a slice of a larger one, from entry `first` on.

use super::{InterpretError, Tensor};

/// The row of each id; `None` where it is of another slice.
fn row_numbers(
    op: &'static str,
    name: &str,
    first: Option<usize>,
    ids: &Tensor,
    entries: usize,
) -> Result<Vec<Option<usize>>, InterpretError> {
    let row = |(position, &id): (usize, &f64)| {
        let row = id - first.unwrap_or(0) as f64;
        if row >= 0.0 && row < entries as f64 {
            Ok(Some(row as usize))
        } else if first.is_some() {
            Ok(None)
        } else {
            Err(InterpretError::IdOutOfRange {
                op,
                name: name.into(),
                id,
                position,
                entries,
            })
        }
    };
    ids.data.iter().enumerate().map(row).collect()
}

pub(super) fn gather(
    name: &str,
    first: Option<usize>,
    table: &Tensor,
    ids: &Tensor,
) -> Result<Vec<f64>, InterpretError> {
    let (entries, width) = (table.ty.shape[0], table.ty.shape[1]);
    let rows = row_numbers("gather", name, first, ids, entries)?;
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        match row {
            Some(r) => out.extend_from_slice(&table.data[r * width..][..width]),
            None => out.extend(std::iter::repeat_n(0.0, width)),
        }
    }
    Ok(out)
}

pub(super) fn scatter_add(
    name: &str,
    first: Option<usize>,
    base: &Tensor,
    ids: &Tensor,
    updates: &Tensor,
) -> Result<Vec<f64>, InterpretError> {
    let (entries, width) = (base.ty.shape[0], base.ty.shape[1]);
    let mut out = base.data.clone();
    let rows = row_numbers("scatter_add", name, first, ids, entries)?;
    for (row, update) in rows.into_iter().zip(updates.rows()) {
        let Some(r) = row else { continue };
        for (sum, u) in out[r * width..][..width].iter_mut().zip(update) {
            *sum += u;
        }
    }
    Ok(out)
}

pub(super) fn write_rows(
    name: &str,
    base: &Tensor,
    first: &Tensor,
    rows: &Tensor,
) -> Result<Vec<f64>, InterpretError> {
    let (entries, width) = (base.ty.shape[1], base.ty.shape[2]);
    let written = rows.ty.shape[1];
    // The first row may be any that leaves room for the others.
    let firsts = row_numbers("write_rows", name, None, first, entries + 1 - written)?;
    let mut out = base.data.clone();
    let matrices = out.chunks_exact_mut((entries * width).max(1));
    let new = rows.data.chunks_exact((written * width).max(1));
    for ((matrix, first), new) in matrices.zip(firsts.into_iter().flatten()).zip(new) {
        matrix[first * width..][..new.len()].copy_from_slice(new);
    }
    Ok(out)
}
