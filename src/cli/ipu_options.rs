//! Which IPU configuration and which pod: the options of Optimum Graphcore.

use clap::Args;

use super::output::note;
use super::program_options::at_least_one;
use crate::compile::machine_named;
use crate::error::Error;
use crate::frontend::{CacheLocation, Gpt2Config};
use crate::ipu_config::{IpuConfig, IpuSettings, check_pod};
use superstep_ir::machine::Machine;

#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "IPU configuration")]
pub(super) struct IpuOptions {
    /// An ipu_config.json, a folder that has one, or Graphcore/gpt2-small-ipu, Graphcore/gpt2-medium-ipu, Graphcore/gpt2-large-ipu.
    #[arg(long = "ipu_config_name", value_name = "NAME|DIR|FILE")]
    pub(super) ipu_config_name: Option<String>,
    /// Changes to it, such as "embedding_serialization_factor=4,layers_per_ipu=[0 4 4 4]".
    #[arg(
        long = "ipu_config_overrides",
        value_name = "KEY=VALUE,…",
        requires = "ipu_config_name"
    )]
    ipu_config_overrides: Option<String>,
    /// The pod: which of the values that depend on it, and the machine where --machine does not name one.
    #[arg(long = "pod_type", value_name = "podN", conflicts_with = "n_ipu")]
    pub(super) pod_type: Option<String>,
    /// The same by the number of its IPUs.
    #[arg(long = "n_ipu", value_name = "N", value_parser = at_least_one::<u32>)]
    pub(super) n_ipu: Option<u32>,
}

/// A configuration, and what it decides; everything is open where there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct IpuLayout {
    pub(super) config: Option<IpuConfig>,
    pub(super) settings: IpuSettings,
}

impl IpuOptions {
    fn pod(&self) -> Option<String> {
        let by_count = || self.n_ipu.map(|n| format!("pod{n}"));
        self.pod_type.clone().or_else(by_count)
    }

    /// The machine: the one that is named, or else the pod.
    pub(super) fn machine(&self, name: Option<&str>) -> Result<Machine, Error> {
        let pod = self.pod();
        if let Some(pod) = &pod {
            let option = if self.n_ipu.is_some() {
                "--n_ipu"
            } else {
                "--pod_type"
            };
            check_pod(pod).map_err(|what| Error::usage(format!("{option}: {what}")))?;
        }
        machine_named(name.or(pod.as_deref()))
    }

    /// Reads the configuration, if one is named, and says what of it has no effect.
    /// `tensor_parallel` goes before that of the configuration.
    pub(super) fn load(
        &self,
        machine: &Machine,
        model: &Gpt2Config,
        tensor_parallel: Option<u32>,
    ) -> Result<IpuLayout, Error> {
        let Some(name) = &self.ipu_config_name else {
            return Ok(IpuLayout::default());
        };
        let mut config = IpuConfig::load(name, CacheLocation::from_env().hub.as_deref())?;
        let pod = self.pod().unwrap_or_else(|| format!("pod{}", machine.ipus));
        config.specialise(Some(&pod), self.ipu_config_overrides.as_deref())?;
        if let Some(members) = tensor_parallel {
            config.set("tensor_parallel", members.into());
        }
        let (settings, remarks) = config.settings(model.n_layer as u32)?;
        remarks.into_iter().for_each(note);
        Ok(IpuLayout {
            config: Some(config),
            settings,
        })
    }
}
