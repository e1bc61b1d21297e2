//! Cross entropy of rows of logits against integer labels; the logits may come in column slices, the last of them with padding.

use super::{InterpretError, Tensor};

/// Which columns of all classes a slice of logits holds: from `first` on, without its last `padding`.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) first: usize,
    pub(super) padding: usize,
}

/// The class a row is labelled with, or `None` where a negative label takes the row out of the loss.
fn label(
    name: &str,
    labels: &Tensor,
    row: usize,
    classes: usize,
) -> Result<Option<usize>, InterpretError> {
    let id = labels.data[row];
    if id < 0.0 {
        Ok(None)
    } else if id < classes as f64 {
        Ok(Some(id as usize))
    } else {
        Err(InterpretError::IdOutOfRange {
            op: "cross_entropy",
            name: name.into(),
            id,
            position: row,
            entries: classes,
        })
    }
}

/// `loss = logsumexp − logit[label]` (0 without a label) and `logsumexp` of every row, over the columns of all slices.
pub(super) fn cross_entropy(
    name: &str,
    slices: &[&Tensor],
    padding: usize,
    labels: &Tensor,
) -> Result<[Vec<f64>; 2], InterpretError> {
    let (mut losses, mut sums) = (Vec::new(), Vec::new());
    for r in 0..labels.data.len() {
        let of_row = |slice: &&Tensor| {
            let columns = slice.ty.shape.last();
            slice.data[r * columns..][..columns].to_vec()
        };
        let mut row: Vec<f64> = slices.iter().flat_map(of_row).collect();
        row.truncate(row.len() - padding);
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let logsumexp = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        let class = label(name, labels, r, row.len())?;
        losses.push(class.map_or(0.0, |class| logsumexp - row[class]));
        sums.push(logsumexp);
    }
    Ok([losses, sums])
}

/// `(softmax(logits) − onehot(label)) · g`; rows without a label and padding 0. The label may fall into another slice.
pub(super) fn cross_entropy_grad(
    part: Columns,
    logits: &Tensor,
    labels: &Tensor,
    logsumexp: &Tensor,
    g: &Tensor,
) -> Vec<f64> {
    let mut out = Vec::with_capacity(logits.data.len());
    for (r, row) in logits.rows().enumerate() {
        let label = labels.data[r];
        let classes = row.len() - part.padding;
        for (c, x) in row.iter().enumerate() {
            if label < 0.0 || c >= classes {
                out.push(0.0);
                continue;
            }
            let onehot = f64::from(u8::from((part.first + c) as f64 == label));
            out.push(((x - logsumexp.data[r]).exp() - onehot) * g.data[r]);
        }
    }
    out
}
