//! Choosing the next token from logits: the most likely, or a draw from a tempered and trimmed distribution.

use superstep_ir::random::Stream;

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most likely token, the lowest id among equals.
    Greedy,
    /// A draw from `softmax(logits / temperature)`, among the `top_k` most likely and, of those, the fewest that make up `top_p`.
    Draw {
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
    },
}

impl Sampling {
    /// The token at `position` of the new text; the same seed and logits give the same token.
    pub fn choose(&self, logits: &[f32], seed: u64, position: u64) -> u32 {
        let mut ranked: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .map(|(id, &l)| (id as u32, f64::from(l)))
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let Sampling::Draw {
            temperature,
            top_k,
            top_p,
        } = *self
        else {
            return ranked[0].0;
        };
        ranked.truncate(top_k.unwrap_or(usize::MAX).max(1));
        let most = ranked[0].1;
        let mut weights: Vec<f64> = ranked
            .iter()
            .map(|(_, logit)| ((logit - most) / temperature).exp())
            .collect();
        if let Some(top_p) = top_p {
            let enough = top_p * weights.iter().sum::<f64>();
            let mut sum = 0.0;
            let kept = weights.iter().take_while(|&&weight| {
                let more = sum < enough;
                sum += weight;
                more
            });
            let kept = kept.count().max(1);
            weights.truncate(kept);
        }
        let mut left =
            Stream::named(seed, "generate").uniform_f64(position) * weights.iter().sum::<f64>();
        let drawn = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        ranked[drawn.unwrap_or(weights.len() - 1)].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, 2.0];

    fn drawn(temperature: f64, top_k: Option<usize>, top_p: Option<f64>) -> Vec<u32> {
        let sampling = Sampling::Draw {
            temperature,
            top_k,
            top_p,
        };
        let mut tokens: Vec<u32> = (0..500).map(|i| sampling.choose(&LOGITS, 1, i)).collect();
        assert_eq!(
            tokens,
            (0..500)
                .map(|i| sampling.choose(&LOGITS, 1, i))
                .collect::<Vec<_>>()
        );
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn greedy_takes_the_first_of_the_most_likely() {
        assert_eq!(Sampling::Greedy.choose(&LOGITS, 0, 0), 1);
    }

    #[test]
    fn trimming_limits_what_can_come() {
        assert_eq!(drawn(1.0, None, None), [0, 1, 2, 3]);
        assert_eq!(drawn(1.0, Some(1), None), [1]);
        assert_eq!(drawn(1.0, Some(3), None), [1, 2, 3]);
        assert_eq!(drawn(1.0, None, Some(0.5)), [1, 3]);
        assert_eq!(drawn(1.0, None, Some(1e-9)), [1]);
        assert_eq!(drawn(0.01, None, None), [1, 3]);
    }
}
