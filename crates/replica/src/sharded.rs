//! A map that is cheap to copy with one entry changed: the copy shares all shards but one.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashMapExt};

/// A million entries make shards of some 2,000, which are copied in tens of microseconds.
const SHARDS: usize = 512;

#[derive(Clone)]
pub(crate) struct Sharded<K, V> {
    shards: Vec<Arc<HashMap<K, V>>>,
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone, V: Clone> Sharded<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Arc::new(HashMap::new())).collect(),
            hasher: RandomState::default(),
        }
    }

    fn shard<Q: Hash + ?Sized>(&self, key: &Q) -> usize {
        shard(&self.hasher, key)
    }

    /// The key that equals `key`, of a map whose keys are all there is to it.
    pub(crate) fn get_key<Q>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.shard(key)].get_key_value(key).map(|(key, _)| key)
    }

    /// A map that several threads fill at once.
    pub(crate) fn fill() -> Filling<K, V> {
        Filling { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::default() }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.shards.iter().flat_map(|shard| shard.keys())
    }

    pub(crate) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.shards[self.shard(key)].get(key)
    }

    /// Changes this copy; others that share the shard keep theirs.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let shard = self.shard(&key);
        let shard = Arc::make_mut(&mut self.shards[shard]);
        // A key that equals the new one would stay in its place.
        shard.remove(&key);
        shard.insert(key, value);
    }

    pub(crate) fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let shard = self.shard(key);
        if self.shards[shard].contains_key(key) {
            Arc::make_mut(&mut self.shards[shard]).remove(key);
        }
    }
}

fn shard<Q: Hash + ?Sized>(hasher: &RandomState, key: &Q) -> usize {
    usize::try_from(hasher.hash_one(key) % SHARDS as u64).unwrap_or(0)
}

/// A map that does not share its shards yet.
pub(crate) struct Filling<K, V> {
    shards: Vec<Mutex<HashMap<K, V>>>,
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Filling<K, V> {
    pub(crate) fn insert(&self, key: K, value: V) {
        let shard = &self.shards[shard(&self.hasher, &key)];
        shard.lock().unwrap_or_else(PoisonError::into_inner).insert(key, value);
    }

    /// Takes what has been put in so far.
    pub(crate) fn finish(&self) -> Sharded<K, V> {
        let take = |shard: &Mutex<_>| {
            Arc::new(std::mem::take(&mut *shard.lock().unwrap_or_else(PoisonError::into_inner)))
        };
        Sharded { shards: self.shards.iter().map(take).collect(), hasher: self.hasher.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_does_not_see_later_changes() {
        let mut map = Sharded::new();
        for number in 0..10_000 {
            map.insert(number, number);
        }
        let before = map.clone();
        map.insert(1, 100);
        map.remove(&2);
        assert_eq!((before.get(&1), before.get(&2)), (Some(&1), Some(&2)));
        assert_eq!((map.get(&1), map.get(&2), map.get(&3)), (Some(&100), None, Some(&3)));
    }
}
