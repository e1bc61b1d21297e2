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
    /// The token at `position` of the new text that is continuation `number` of its prompt; the same seed and logits give the same token.
    /// There must be logits.
    pub fn choose(&self, logits: &[f32], seed: u64, number: usize, position: u64) -> u32 {
        let ids = logits.iter().enumerate();
        let ids = ids.map(|(id, &logit)| (id as u32, f64::from(logit)));
        let order =
            |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0));
        let Sampling::Draw {
            temperature,
            top_k,
            top_p,
        } = *self
        else {
            return ids.min_by(order).map_or(0, |(id, _)| id);
        };
        let mut ranked: Vec<(u32, f64)> = ids.collect();
        let kept = top_k.unwrap_or(usize::MAX).max(1);
        if kept < ranked.len() {
            // No need to sort the others.
            ranked.select_nth_unstable_by(kept, order);
            ranked.truncate(kept);
        }
        ranked.sort_unstable_by(order);
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
        let stream = match number {
            0 => Stream::named(seed, "generate"),
            _ => Stream::named(seed, &format!("generate.{number}")),
        };
        let mut left = stream.uniform_f64(position) * weights.iter().sum::<f64>();
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
        let mut tokens: Vec<u32> = (0..500)
            .map(|i| sampling.choose(&LOGITS, 1, 0, i))
            .collect();
        assert_eq!(
            tokens,
            (0..500)
                .map(|i| sampling.choose(&LOGITS, 1, 0, i))
                .collect::<Vec<_>>()
        );
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    #[test]
    fn greedy_takes_the_first_of_the_most_likely() {
        assert_eq!(Sampling::Greedy.choose(&LOGITS, 0, 0, 0), 1);
    }

    #[test]
    fn continuations_of_a_prompt_draw_numbers_of_their_own() {
        let draw = Sampling::Draw {
            temperature: 1.0,
            top_k: None,
            top_p: None,
        };
        let drawn = |number| -> Vec<u32> {
            (0..50)
                .map(|i| draw.choose(&LOGITS, 1, number, i))
                .collect()
        };
        assert_ne!(drawn(0), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert_eq!(drawn(1), drawn(1));
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
