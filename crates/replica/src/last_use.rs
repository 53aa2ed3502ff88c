//! When keys were last used: noted in memory by every request, written together now and then.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use tollgate_core::{Result, Timestamp};
use tollgate_store::Db;

use crate::rows;
use crate::snapshot::Key;

/// The keys whose last use is not written yet, each once.
#[derive(Default)]
pub(crate) struct LastUse(Mutex<Vec<Arc<Key>>>);

impl LastUse {
    pub(crate) fn note(&self, key: &Arc<Key>, now: Timestamp) {
        let before = key.last_used_at.fetch_max(now.0, Ordering::Relaxed);
        if before < now.0 && !key.is_use_unwritten.swap(true, Ordering::Relaxed) {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(key));
        }
    }

    pub(crate) async fn write(&self, db: &Db) -> Result<()> {
        let keys = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if keys.is_empty() {
            return Ok(());
        }
        let uses: Vec<_> = keys
            .iter()
            .map(|key| {
                key.is_use_unwritten.store(false, Ordering::Relaxed);
                (key.locator, key.id.to_string(), Timestamp(key.last_used_at.load(Ordering::Relaxed)))
            })
            .collect();
        let written =
            db.write(move |tx| Box::pin(async move { rows::write_last_use(tx, &uses).await })).await;
        if written.is_err() {
            // The next time, then.
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            waiting
                .extend(keys.into_iter().filter(|key| !key.is_use_unwritten.swap(true, Ordering::Relaxed)));
        }
        written
    }
}
