//! Cross entropy of rows of logits against integer labels.

use super::{InterpretError, Tensor};

/// The class a row is labelled with, or `None` where a negative label takes the row out of the loss.
fn label(
    op: &'static str,
    name: &str,
    logits: &Tensor,
    labels: &Tensor,
    row: usize,
) -> Result<Option<usize>, InterpretError> {
    let (id, entries) = (labels.data[row], logits.ty.shape.last());
    if id < 0.0 {
        Ok(None)
    } else if id < entries as f64 {
        Ok(Some(id as usize))
    } else {
        Err(InterpretError::IdOutOfRange {
            op,
            name: name.into(),
            id,
            position: row,
            entries,
        })
    }
}

/// `loss = logsumexp − logit[label]` (0 without a label) and `logsumexp` of every row.
pub(super) fn cross_entropy(
    name: &str,
    logits: &Tensor,
    labels: &Tensor,
) -> Result<[Vec<f64>; 2], InterpretError> {
    let (mut losses, mut sums) = (Vec::new(), Vec::new());
    for (r, row) in logits.rows().enumerate() {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let logsumexp = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        losses.push(
            label("cross_entropy", name, logits, labels, r)?
                .map_or(0.0, |class| logsumexp - row[class]),
        );
        sums.push(logsumexp);
    }
    Ok([losses, sums])
}

/// `(softmax(logits) − onehot(label)) · g`, rows without a label 0.
pub(super) fn cross_entropy_grad(
    name: &str,
    logits: &Tensor,
    labels: &Tensor,
    logsumexp: &Tensor,
    g: &Tensor,
) -> Result<Vec<f64>, InterpretError> {
    let mut out = Vec::with_capacity(logits.data.len());
    for (r, row) in logits.rows().enumerate() {
        let Some(class) = label("cross_entropy_grad", name, logits, labels, r)? else {
            out.extend(std::iter::repeat_n(0.0, row.len()));
            continue;
        };
        for (c, x) in row.iter().enumerate() {
            let onehot = f64::from(u8::from(c == class));
            out.push(((x - logsumexp.data[r]).exp() - onehot) * g.data[r]);
        }
    }
    Ok(out)
}
