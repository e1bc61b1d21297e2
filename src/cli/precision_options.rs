//! In which precision a program computes: the options that are compiled into it.

use clap::Args;

use crate::error::Error;
use crate::precision::{Precision, PrecisionSettings};

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Precision")]
pub(super) struct PrecisionOptions {
    /// Element types: f32; f16.16 or f16.32, weights and activations in f16 with such partial sums; recipe, f16.16 with f16 accumulators,
    /// first moments and updates [default: f32].
    #[arg(long = "precision", value_enum, value_name = "NAME")]
    pub(super) precision: Option<Precision>,
    /// The same as --precision f32, also with an IPU configuration.
    #[arg(long = "fp32", num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    pub(super) fp32: bool,
    /// Keep f32 weights and round them to f16 where they are read [default: false].
    #[arg(long = "master_weights", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) master_weights: Option<bool>,
    /// Round to f16 at random, in proportion to what is nearer, in training [default: true where weights are f16].
    #[arg(long = "stochastic_rounding", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) stochastic_rounding: Option<bool>,
    /// Halve the loss scale and skip the update when a gradient overflows; double it after many good updates [default: false].
    #[arg(long = "auto_loss_scaling", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(super) auto_loss_scaling: Option<bool>,
}

impl PrecisionOptions {
    /// What these options ask for; `unless_given` and `auto_loss_scaling` are those of an IPU configuration.
    pub(super) fn settings(
        &self,
        unless_given: Precision,
        auto_loss_scaling: Option<bool>,
    ) -> Result<PrecisionSettings, Error> {
        let precision = match (self.precision, self.fp32) {
            (Some(given), true) if given != Precision::F32 => {
                return Err(Error::usage(format!(
                    "--fp32 contradicts --precision {given}"
                )));
            }
            (_, true) => Precision::F32,
            (given, false) => given.unwrap_or(unless_given),
        };
        let default = PrecisionSettings::of(precision);
        let master_weights = self.master_weights.unwrap_or_default();
        if master_weights && matches!(precision, Precision::F32 | Precision::Recipe) {
            return Err(Error::usage(format!(
                "--master_weights needs --precision f16.16 or f16.32, not {precision}"
            )));
        }
        if self.stochastic_rounding == Some(true) && !precision.is_half() {
            return Err(Error::usage(
                "--stochastic_rounding rounds to f16; give --precision f16.16, f16.32 or recipe",
            ));
        }
        let auto_loss_scaling = self
            .auto_loss_scaling
            .or(auto_loss_scaling)
            .unwrap_or_default();
        Ok(PrecisionSettings {
            precision,
            master_weights,
            stochastic_rounding: self
                .stochastic_rounding
                .unwrap_or(default.stochastic_rounding && !master_weights),
            loss_scaling: default.loss_scaling || auto_loss_scaling,
            auto_loss_scaling,
        })
    }

    /// Each option that is given, with its value and the one of a compiled program.
    pub(super) fn given(
        &self,
        compiled: &PrecisionSettings,
    ) -> Vec<(&'static str, Option<String>, String)> {
        let text = |option: Option<bool>| option.map(|value| value.to_string());
        vec![
            (
                "precision",
                self.precision.map(|p| p.to_string()),
                compiled.precision.to_string(),
            ),
            (
                "master_weights",
                text(self.master_weights),
                compiled.master_weights.to_string(),
            ),
            (
                "stochastic_rounding",
                text(self.stochastic_rounding),
                compiled.stochastic_rounding.to_string(),
            ),
            (
                "auto_loss_scaling",
                text(self.auto_loss_scaling),
                compiled.auto_loss_scaling.to_string(),
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let options = PrecisionOptions {
            master_weights: Some(true),
            ..PrecisionOptions::default()
        };
        assert!(options.settings(Precision::F32, None).is_err());
        let options = PrecisionOptions {
            stochastic_rounding: Some(true),
            ..PrecisionOptions::default()
        };
        assert!(options.settings(Precision::F32, None).is_err());
    }

    #[test]
    fn halves_have_a_loss_scale_and_round_at_random() {
        let options = PrecisionOptions {
            precision: Some(Precision::F16Partials16),
            ..PrecisionOptions::default()
        };
        let settings = options.settings(Precision::F32, None).unwrap();
        assert_eq!(settings, PrecisionSettings::of(Precision::F16Partials16));
        assert!(settings.loss_scaling && settings.stochastic_rounding);
        let plain = PrecisionOptions::default()
            .settings(Precision::F32, None)
            .unwrap();
        assert_eq!(plain, PrecisionSettings::default());
    }
}
