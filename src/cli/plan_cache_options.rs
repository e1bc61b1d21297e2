//! Where plans are kept for later compilations.

use std::path::PathBuf;

use clap::Args;

use crate::compile::PlanCache;
use crate::error::Error;
use crate::user_cache;

#[derive(Clone, Debug, Default, Args)]
pub(super) struct PlanCacheOptions {
    /// Folder that keeps plans for later compilations, or none [default: superstep/plans in the user's cache].
    #[arg(long = "plan_cache_dir", value_name = "DIR|none")]
    directory: Option<PathBuf>,
}

impl PlanCacheOptions {
    /// Only a folder that the user named must be there.
    pub(super) fn cache(&self) -> Result<PlanCache, Error> {
        match &self.directory {
            Some(none) if none.as_os_str() == "none" => Ok(PlanCache::none()),
            Some(directory) => Ok(PlanCache::at(directory.clone())?),
            None => Ok(PlanCache::at(user_cache::directory().join("plans")).unwrap_or_default()),
        }
    }
}
