//! Signing on all cores.

use std::{num::NonZero, sync::Arc};

use super::{Authorities, SignError};

impl Authorities {
    /// Does `each` of `work` on all cores, and answers in its order.
    ///
    /// At most one thread per core signs for all callers together; the others wait their turn. All
    /// turns are alike: renewals close to their end do not come first yet.
    pub async fn sign_batch<T, R>(
        &self,
        work: Vec<T>,
        each: impl Fn(&Self, T) -> R + Clone + Send + 'static,
    ) -> Result<Vec<R>, SignError>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let share = work.len().div_ceil(cores()).max(1);
        let mut shares = Vec::new();
        let mut work = work.into_iter();
        loop {
            let share: Vec<T> = work.by_ref().take(share).collect();
            if share.is_empty() {
                break;
            }
            let (this, each) = (self.clone(), each.clone());
            shares.push(async move {
                let turn = Arc::clone(&this.0.signers).acquire_owned().await;
                let turn = turn.or(Err(SignError::Ended))?;
                let done = tokio::task::spawn_blocking(move || {
                    let _turn = turn;
                    share
                        .into_iter()
                        .map(|item| each(&this, item))
                        .collect::<Vec<R>>()
                });
                done.await.or(Err(SignError::Ended))
            });
        }
        let shares = futures_util::future::try_join_all(shares).await?;
        Ok(shares.into_iter().flatten().collect())
    }
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}
