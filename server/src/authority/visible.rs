//! The link between a commit and those who must see it.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;

use super::RotateError;
use crate::store::Revision;

/// Tells when what a commit wrote can be seen by everybody who asks this server.
#[derive(Clone)]
pub struct Visible(Arc<Reached>);

type Reached = dyn Fn(Revision) -> BoxFuture<'static, Result<(), VisibleError>> + Send + Sync;
/// Why it cannot be seen.
pub type VisibleError = Box<dyn std::error::Error + Send + Sync>;

impl Visible {
    /// Asks an index.
    pub fn new(
        reached: impl Fn(Revision) -> BoxFuture<'static, Result<(), VisibleError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(reached))
    }

    /// At once: there is no index, as in tests.
    pub fn at_once() -> Self {
        Self::new(|_| Box::pin(async { Ok(()) }))
    }

    pub(super) async fn reached(&self, revision: Revision) -> Result<(), RotateError> {
        (self.0)(revision)
            .await
            .map_err(|source| RotateError::NotVisible { source })
    }
}

impl fmt::Debug for Visible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Visible")
    }
}
