//! Rows of a table read, added to and replaced by integer id.

use super::{InterpretError, Tensor};

/// The ids as row numbers of a table with `entries` rows.
fn row_numbers(
    op: &'static str,
    name: &str,
    ids: &Tensor,
    entries: usize,
) -> Result<Vec<usize>, InterpretError> {
    let row = |(position, &id): (usize, &f64)| {
        if id >= 0.0 && id < entries as f64 {
            Ok(id as usize)
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

pub(super) fn gather(name: &str, table: &Tensor, ids: &Tensor) -> Result<Vec<f64>, InterpretError> {
    let (entries, width) = (table.ty.shape[0], table.ty.shape[1]);
    let rows = row_numbers("gather", name, ids, entries)?;
    Ok(rows
        .into_iter()
        .flat_map(|r| table.data[r * width..][..width].iter().copied())
        .collect())
}

pub(super) fn scatter_add(
    name: &str,
    base: &Tensor,
    ids: &Tensor,
    updates: &Tensor,
) -> Result<Vec<f64>, InterpretError> {
    let (entries, width) = (base.ty.shape[0], base.ty.shape[1]);
    let mut out = base.data.clone();
    for (r, update) in row_numbers("scatter_add", name, ids, entries)?
        .into_iter()
        .zip(updates.rows())
    {
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
    let firsts = row_numbers("write_rows", name, first, entries + 1 - written)?;
    let mut out = base.data.clone();
    let matrices = out.chunks_exact_mut((entries * width).max(1));
    let new = rows.data.chunks_exact((written * width).max(1));
    for ((matrix, first), new) in matrices.zip(firsts).zip(new) {
        matrix[first * width..][..new.len()].copy_from_slice(new);
    }
    Ok(out)
}
