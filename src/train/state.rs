//! `trainer_state.json`: how far a run has come and what it logged, with the fields of Hugging Face's trainer.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The contents of `trainer_state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Lowest loss of an evaluation so far.
    pub best_metric: Option<f64>,
    pub best_model_checkpoint: Option<String>,
    pub epoch: f64,
    pub eval_steps: u64,
    /// Steps done; a step is all weight updates of one host call.
    pub global_step: u64,
    pub is_hyper_param_search: bool,
    pub is_local_process_zero: bool,
    pub is_world_process_zero: bool,
    pub log_history: Vec<Map<String, Value>>,
    pub logging_steps: u64,
    pub max_steps: u64,
    pub num_input_tokens_seen: u64,
    pub num_train_epochs: u64,
    pub save_steps: u64,
    pub total_flos: f64,
    pub train_batch_size: usize,
    pub trial_name: Option<String>,
    pub trial_params: Option<Value>,
}

impl TrainerState {
    /// The state before the first step.
    pub fn start() -> TrainerState {
        TrainerState {
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: 0,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: 0,
            max_steps: 0,
            num_input_tokens_seen: 0,
            num_train_epochs: 0,
            save_steps: 0,
            total_flos: 0.0,
            train_batch_size: 0,
            trial_name: None,
            trial_params: None,
        }
    }

    /// What the run is asked to do, which may be something else than before when it goes on from a checkpoint.
    pub fn plan(&mut self, max_steps: u64, num_train_epochs: u64, cadence: &super::Cadence) {
        self.max_steps = max_steps;
        self.num_train_epochs = num_train_epochs;
        self.logging_steps = cadence.logging_steps;
        self.eval_steps = cadence.eval_steps.unwrap_or(cadence.logging_steps);
        self.save_steps = cadence.save_steps.unwrap_or(0);
    }

    /// Adds an entry to the log: `values`, between the epoch (two decimals) and the step.
    pub fn log(&mut self, values: &[(&str, f64)]) {
        let mut entry = Map::new();
        entry.insert("epoch".into(), json!(rounded(self.epoch, 2)));
        for (name, value) in values {
            entry.insert((*name).into(), json!(value));
        }
        entry.insert("step".into(), json!(self.global_step));
        self.log_history.push(entry);
    }

    pub fn to_json(&self) -> String {
        // Numbers, lists and maps with text keys always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// `value` with a number of decimals, as Python rounds: exactly, a tie to the even digit.
pub fn rounded(value: f64, decimals: usize) -> f64 {
    // What is no number has a text that reads as the same.
    format!("{value:.decimals$}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_python() {
        for (value, decimals, expected) in [
            (2.675, 2, 2.67),
            (0.125, 2, 0.12),
            (0.375, 2, 0.38),
            (-2.5, 0, -2.0),
            (7.123_46, 4, 7.1235),
            (1e300, 4, 1e300),
        ] {
            assert_eq!(rounded(value, decimals), expected);
        }
        assert!(rounded(f64::NAN, 4).is_nan());
        assert_eq!(rounded(f64::INFINITY, 4), f64::INFINITY);
    }
}
