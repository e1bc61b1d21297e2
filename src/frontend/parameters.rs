//! The parameters of a GPT-2: their names, shapes and order, which decay, and which layer they are in.

use super::config::Gpt2Config;

/// One parameter of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The Hugging Face name without `transformer.`, such as `h.0.mlp.c_fc.weight`.
    pub name: String,
    /// Rows, then columns; a linear weight is `[in, out]`.
    pub shape: Vec<usize>,
    /// The block it belongs to; none for the embeddings and the last layer norm.
    pub layer: Option<usize>,
    /// Whether weight decay applies: to matrices, not to biases and layer norms.
    pub decayed: bool,
}

impl Parameter {
    /// Elements of the parameter.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Gpt2Config {
    /// Every parameter, in the order used everywhere: embeddings, blocks from first to last, last layer norm.
    pub fn parameters(&self) -> Vec<Parameter> {
        let (embd, inner) = (self.n_embd, self.n_inner);
        let mut all = vec![
            parameter(None, "wte.weight", &[self.vocab_size, embd]),
            parameter(None, "wpe.weight", &[self.n_positions, embd]),
        ];
        for layer in 0..self.n_layer {
            let layer = Some(layer);
            all.extend([
                parameter(layer, "ln_1.weight", &[embd]),
                parameter(layer, "ln_1.bias", &[embd]),
                parameter(layer, "attn.c_attn.weight", &[embd, 3 * embd]),
                parameter(layer, "attn.c_attn.bias", &[3 * embd]),
                parameter(layer, "attn.c_proj.weight", &[embd, embd]),
                parameter(layer, "attn.c_proj.bias", &[embd]),
                parameter(layer, "ln_2.weight", &[embd]),
                parameter(layer, "ln_2.bias", &[embd]),
                parameter(layer, "mlp.c_fc.weight", &[embd, inner]),
                parameter(layer, "mlp.c_fc.bias", &[inner]),
                parameter(layer, "mlp.c_proj.weight", &[inner, embd]),
                parameter(layer, "mlp.c_proj.bias", &[embd]),
            ]);
        }
        all.push(parameter(None, "ln_f.weight", &[embd]));
        all.push(parameter(None, "ln_f.bias", &[embd]));
        all
    }

    /// Elements of all parameters together; the tied head counts once.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(Parameter::element_count).sum()
    }
}

fn parameter(layer: Option<usize>, name: &str, shape: &[usize]) -> Parameter {
    let name = match layer {
        Some(layer) => format!("h.{layer}.{name}"),
        None => name.to_owned(),
    };
    Parameter {
        name,
        shape: shape.to_vec(),
        layer,
        decayed: shape.len() == 2,
    }
}

#[cfg(test)]
mod tests {
    use crate::frontend::preset;

    #[test]
    fn gpt2_decays_its_matrices_only() {
        let parameters = preset("gpt2").unwrap().parameters();
        assert_eq!(parameters.len(), 148);
        let sum = |decayed: bool| -> usize {
            parameters
                .iter()
                .filter(|p| p.decayed == decayed)
                .map(|p| p.element_count())
                .sum()
        };
        assert_eq!((sum(true), sum(false)), (124_318_464, 121_344));
    }

    #[test]
    fn order_and_layers() {
        let config = preset("gpt2")
            .unwrap()
            .with_overrides("n_layer=2,n_embd=24,n_head=1,n_inner=7")
            .unwrap();
        let parameters = config.parameters();
        assert_eq!(parameters.len(), 2 + 2 * 12 + 2);
        assert_eq!(parameters[0].name, "wte.weight");
        assert_eq!(parameters[2].name, "h.0.ln_1.weight");
        assert_eq!(
            (parameters[14].name.as_str(), parameters[14].layer),
            ("h.1.ln_1.weight", Some(1))
        );
        assert_eq!(parameters[10].shape, [24, 7]);
        assert_eq!(parameters[27].name, "ln_f.bias");
        assert_eq!(parameters[27].layer, None);
    }
}
