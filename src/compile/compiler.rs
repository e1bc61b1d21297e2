//! Which compiler this is: what it made may only be used again by the same one.

use std::sync::OnceLock;

/// The digest of the running program, since a version number does not change with every change; none if it cannot be read.
pub(super) fn digest() -> Option<blake3::Hash> {
    static DIGEST: OnceLock<Option<blake3::Hash>> = OnceLock::new();
    *DIGEST.get_or_init(|| {
        let program = std::env::current_exe().and_then(std::fs::read);
        program.ok().map(|bytes| blake3::hash(&bytes))
    })
}
