//! Who has which toolchain: provider records in Kademlia.

use std::collections::{BTreeSet, HashMap, HashSet};

use barn_protocol::{Digest, NodeId};
use libp2p::kad::{
    self, GetProvidersOk, ProviderRecord, QueryId, RecordKey,
    store::{MemoryStore, RecordStore},
};
use tokio::{sync::oneshot, time::Instant};

use super::behaviour::provider_key;
use crate::{
    keys,
    limits::{PROVIDER_KEYS_MAX, PROVIDER_SEARCHES_MAX, PROVIDERS_ENOUGH, PROVIDERS_TIMEOUT},
};

type Kad = kad::Behaviour<MemoryStore>;

/// A request for the providers of a digest.
pub(crate) struct Search {
    pub(crate) digest: Digest,
    pub(crate) reply: oneshot::Sender<Vec<NodeId>>,
}

/// Searches under way, and what this node provides.
#[derive(Default)]
pub(super) struct Providers {
    searches: HashMap<QueryId, Running>,
    provided: BTreeSet<Digest>,
    /// Keys others provide, as far as this node remembers them.
    remembered: HashSet<RecordKey>,
}

struct Running {
    reply: oneshot::Sender<Vec<NodeId>>,
    found: BTreeSet<NodeId>,
    deadline: Instant,
}

impl Providers {
    /// Begins and ends providing, so that exactly `wanted` is provided.
    pub(super) fn provide(&mut self, kad: &mut Kad, wanted: &BTreeSet<Digest>) {
        for gone in self.provided.difference(wanted) {
            kad.stop_providing(&provider_key(gone));
        }
        for new in wanted.difference(&self.provided) {
            announce(kad, new);
        }
        self.provided.clone_from(wanted);
    }

    /// Says again what is provided, to members that have come since.
    pub(super) fn announce_again(&self, kad: &mut Kad) {
        for digest in &self.provided {
            announce(kad, digest);
        }
    }

    pub(super) fn search(&mut self, kad: &mut Kad, search: Search, now: Instant) {
        if self.searches.len() >= PROVIDER_SEARCHES_MAX {
            let _ = search.reply.send(Vec::new());
            return;
        }
        let id = kad.get_providers(provider_key(&search.digest));
        let running =
            Running { reply: search.reply, found: BTreeSet::new(), deadline: now + PROVIDERS_TIMEOUT };
        self.searches.insert(id, running);
    }

    /// Takes note of what a search has found; only `members` count.
    pub(super) fn progressed(
        &mut self,
        kad: &mut Kad,
        id: QueryId,
        found: Option<GetProvidersOk>,
        last: bool,
        is_member: impl Fn(&NodeId) -> bool,
    ) {
        let Some(search) = self.searches.get_mut(&id) else { return };
        if let Some(GetProvidersOk::FoundProviders { providers, .. }) = found {
            search.found.extend(providers.iter().filter_map(keys::node_id).filter(is_member));
        }
        if last || search.found.len() >= PROVIDERS_ENOUGH {
            self.finish(kad, id);
        }
    }

    /// Ends the searches whose time is over.
    pub(super) fn expire(&mut self, kad: &mut Kad, now: Instant) {
        let late: Vec<QueryId> =
            self.searches.iter().filter(|(_, search)| search.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            self.finish(kad, id);
        }
    }

    /// When [`Providers::expire`] is to be called next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.searches.values().map(|search| search.deadline).min()
    }

    /// Remembers that another member provides something.
    pub(super) fn remember(&mut self, kad: &mut Kad, record: ProviderRecord) {
        let store = kad.store_mut();
        if self.remembered.len() >= PROVIDER_KEYS_MAX && !self.remembered.contains(&record.key) {
            self.remembered.retain(|key| !store.providers(key).is_empty());
            if self.remembered.len() >= PROVIDER_KEYS_MAX {
                return;
            }
        }
        let key = record.key.clone();
        if store.add_provider(record).is_ok() {
            self.remembered.insert(key);
        }
    }

    fn finish(&mut self, kad: &mut Kad, id: QueryId) {
        if let Some(mut query) = kad.query_mut(&id) {
            query.finish();
        }
        if let Some(search) = self.searches.remove(&id) {
            let _ = search.reply.send(search.found.into_iter().collect());
        }
    }
}

fn announce(kad: &mut Kad, digest: &Digest) {
    if let Err(error) = kad.start_providing(provider_key(digest)) {
        tracing::warn!(%digest, %error, "not announced");
    }
}
