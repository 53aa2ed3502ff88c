//! All spend limits there are, by what they count.

use foldhash::HashMap;
use std::sync::Arc;

use super::{Limit, Payer, Scope};

#[derive(Clone, Debug, Default)]
pub struct Limits(HashMap<Scope, Vec<Arc<Limit>>>);

impl Limits {
    /// Replaces the limits of a scope by what they are now.
    pub fn set(&mut self, scope: Scope, limits: impl IntoIterator<Item = Limit>) {
        let mut limits: Vec<Arc<Limit>> = limits.into_iter().map(Arc::new).collect();
        limits.sort_by_key(|limit| std::cmp::Reverse(limit.interval));
        if limits.is_empty() {
            self.0.remove(&scope);
        } else {
            self.0.insert(scope, limits);
        }
    }

    /// The limits of one scope, the longest interval first.
    pub fn of(&self, scope: Scope) -> &[Arc<Limit>] {
        self.0.get(&scope).map_or(&[], Vec::as_slice)
    }

    /// The limits that a payer's requests count towards, widest first.
    pub fn path(&self, payer: &Payer) -> Vec<Arc<Limit>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        payer.scopes().flat_map(|scope| self.of(scope)).cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
