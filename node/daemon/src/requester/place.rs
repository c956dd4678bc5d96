//! Where an action runs: begins and cancels runs on workers as the placement says, judges what comes back, and holds what
//! a worker saw against what was shipped.

use std::{sync::Arc, time::Duration};

use barn_protocol::{
    NodeId,
    placement::{Failure, Place, Why},
    roster::Member,
};

use super::{
    Answer, LocalRun, Prepared, Requester,
    dispatch::{Ticket, Verdict},
    inputs::{Inputs, Unknown},
    obstacle::Obstacle,
    remote::{self, RemoteError, Returned},
    sight::Look,
    story::Story,
    tries::{Outcome, Tries},
};

/// How often an action whose inputs were not complete goes to a worker again.
const AMENDED_MAX: u32 = 1;

/// Where an action ran, or is to run.
enum Placed {
    Here(Ticket),
    /// What came back, and from whom.
    There(Box<Returned>, String),
}

/// What comes of holding a worker's observation against what was shipped.
enum Checked {
    /// The result is one of these inputs; with a path that no list of them tells of, if there is one.
    Sound(Arc<Prepared>, Box<Returned>, Option<Vec<u8>>),
    /// The result is to be thrown away: this was overlooked, with which the action is another.
    Amended(Arc<Prepared>, String),
    /// What was overlooked cannot be added.
    Unknown(Unknown),
}

/// Whether an action stays with workers.
enum Stay {
    Remote,
    Here,
}

impl Requester {
    /// Finds a place for the action, and another one after every trouble. What a worker shows to have been overlooked is
    /// added, and the action placed anew; after that it runs here.
    pub(super) async fn place(self: &Arc<Self>, mut prepared: Arc<Prepared>, mut story: Story) -> Answer {
        if let Some(reason) = &prepared.call.cache_only {
            story.tell(format!("runs here: {reason}"));
        }
        let may_be_sent = self.may_be_sent(&prepared, &mut story);
        let mut amended = 0;
        loop {
            let may_travel = may_be_sent && amended <= AMENDED_MAX;
            let (returned, name) = match self.run_somewhere(&prepared, may_travel, &mut story).await {
                Placed::Here(ticket) => {
                    return Answer::Compile(Box::new(LocalRun::new(self.clone(), prepared, ticket, story)));
                }
                Placed::There(returned, name) => (returned, name),
            };
            let (this, known) = (self.clone(), prepared);
            let checked = tokio::task::spawn_blocking(move || this.check(known, *returned)).await;
            match checked {
                Ok(Checked::Sound(known, returned, unlisted)) => {
                    if let Some(path) = unlisted {
                        self.stats.count_named(|c| &mut c.fallbacks, "inputs-unlisted");
                        let path = String::from_utf8_lossy(&path).into_owned();
                        story.tell(format!(
                            "no include manifest: {name} looked for {path}, which is on no list"
                        ));
                    }
                    return self.remote_done(known, *returned, &name, story).await;
                }
                Ok(Checked::Amended(better, overlooked)) => {
                    amended += 1;
                    self.stats.count_named(|c| &mut c.fallbacks, "inputs-overlooked");
                    story.tell(format!("{name} looked in vain for {overlooked}, which is here"));
                    prepared = better;
                }
                Ok(Checked::Unknown(reason)) => return self.exec(story, &reason),
                Err(_) => {
                    let reason = Unknown::because(Obstacle::Internal, "the check of a result panicked");
                    return self.exec(story, &reason);
                }
            }
        }
    }

    /// Whether it may run on other machines: it can, and whatever this build demands, each of them is believed.
    fn may_be_sent(&self, prepared: &Prepared, story: &mut Story) -> bool {
        let policy = self.policy(&prepared.call);
        let is_believed = |member: &Member| !member.capabilities.execute || policy.believes_worker(member);
        let roster = self.roster.current();
        let others = roster.iter().flat_map(|roster| &roster.roster().members);
        // Those whom the machine's own setting leaves out get nothing anyhow.
        let own = self.office.policy();
        let all = others.filter(|member| own.believes_worker(member)).all(is_believed);
        if !all {
            story.tell("runs here: BARN_TRUST does not include every worker".to_owned());
        }
        prepared.call.may_travel() && all
    }

    /// Runs the action on a worker, or finds that it is to run here.
    async fn run_somewhere(
        self: &Arc<Self>,
        prepared: &Arc<Prepared>,
        may_travel: bool,
        story: &mut Story,
    ) -> Placed {
        let cost = prepared.action.inputs.file_bytes();
        let source = prepared.call.source_path();
        let mut ticket = self.dispatch.submit(prepared.action.toolchain, cost, &source, may_travel);
        let mut tries = Tries::default();
        loop {
            let ended = tokio::select! {
                // A result that is there counts, whatever was decided meanwhile.
                biased;
                ended = tries.next() => ended,
                verdict = ticket.verdict() => {
                    match self.obey(verdict, &mut tries, prepared, &ticket, story) {
                        Stay::Remote => continue,
                        Stay::Here => return Placed::Here(ticket),
                    }
                }
            };
            let name = self.name_of(&ended.worker);
            if let Some(returned) = self.judge(ended.outcome, ended.worker, &ticket, story, &name) {
                ticket.finished(Place::Worker(ended.worker), ended.wall, true);
                return Placed::There(Box::new(returned), name);
            }
        }
    }

    /// Holds what the worker saw against what was shipped.
    fn check(&self, prepared: Arc<Prepared>, returned: Returned) -> Checked {
        let Some(observed) = &returned.observed else {
            return Checked::Sound(prepared, Box::new(returned), None);
        };
        let mut look = Look::new(&self.sight, &self.files, &prepared.call.cwd);
        let overlooked = prepared.inputs.overlooked(observed, &prepared.action.outputs, &mut look);
        let Some(first) = overlooked.files.first() else {
            let Some(unlisted) = overlooked.unlisted.filter(|_| prepared.inputs.complete) else {
                return Checked::Sound(prepared, Box::new(returned), None);
            };
            let inputs = Inputs { complete: false, ..prepared.inputs.clone() };
            return Checked::Sound(Arc::new(prepared.with(inputs)), Box::new(returned), Some(unlisted));
        };
        let mut inputs = prepared.inputs.clone();
        match inputs.amend(&overlooked.files, &mut look) {
            Ok(()) => {
                let shown = String::from_utf8_lossy(first).into_owned();
                Checked::Amended(Arc::new(prepared.with(inputs)), shown)
            }
            Err(reason) => Checked::Unknown(reason),
        }
    }

    /// Begins and cancels runs on workers as the placement says.
    fn obey(
        self: &Arc<Self>,
        verdict: Verdict,
        tries: &mut Tries,
        prepared: &Arc<Prepared>,
        ticket: &Ticket,
        story: &mut Story,
    ) -> Stay {
        let (worker, stay) = match verdict {
            Verdict::Run { place, why } => {
                self.leave(tries, why, story);
                match place {
                    Place::Worker(worker) => (Some(worker), Stay::Remote),
                    Place::Local => {
                        story.tell(format!("placed here ({why:?})"));
                        (None, Stay::Here)
                    }
                }
            }
            Verdict::Hedge { worker } => {
                self.stats.count_named(|c| &mut c.fallbacks, "hedged");
                story.tell(format!("takes long: raced by {}", self.name_of(&worker)));
                (Some(worker), Stay::Remote)
            }
            Verdict::GiveUp => {
                story.tell("placed here: too many compiles wait".to_owned());
                (None, Stay::Here)
            }
        };
        if let Some(worker) = worker {
            let (time_left, on_started) = (ticket.time_left(worker), ticket.on_started(worker));
            tries.begin(worker, self.clone().try_on(worker, prepared.clone(), time_left, on_started));
        }
        stay
    }

    /// Cancels the runs on workers, if there are any, since another place was found.
    fn leave(&self, tries: &mut Tries, why: Why, story: &mut Story) {
        for worker in tries.cancel() {
            let name = self.name_of(&worker);
            match why {
                Why::Sooner => story.tell(format!("taken back from {name}: it ends sooner elsewhere")),
                Why::Overdue => {
                    self.stats.count_named(|c| &mut c.fallbacks, "overdue");
                    story.tell(format!("taken back from {name}: it takes too long"));
                }
                _ => {
                    self.stats.count_named(|c| &mut c.fallbacks, "worker-lost");
                    story.tell(format!("{name} was lost"));
                }
            }
        }
    }

    async fn try_on(
        self: Arc<Self>,
        worker: NodeId,
        prepared: Arc<Prepared>,
        time_left: Duration,
        on_started: impl FnOnce() + Send,
    ) -> Outcome {
        let errand = remote::Errand {
            carrier: &self.carrier,
            mesh: &self.mesh,
            store: &self.store,
            worker,
            action: &prepared.action,
            key: prepared.key,
            sources: &prepared.inputs.sources,
        };
        errand.run(time_left, on_started).await
    }

    /// Tells the placement how a try went; the result if it may be shown to the user.
    fn judge(
        &self,
        outcome: Outcome,
        worker: NodeId,
        ticket: &Ticket,
        story: &mut Story,
        name: &str,
    ) -> Option<Returned> {
        match outcome {
            Ok(returned) if returned.result.exit_code == 0 => return Some(returned),
            Ok(Returned { result, .. }) => {
                self.stats.count_named(|c| &mut c.fallbacks, "remote-error");
                story.tell(format!("{name} got exit status {}: to be seen here", result.exit_code));
                ticket.failed(worker, Failure::RemoteExit);
            }
            Err(RemoteError::Declined(why)) => {
                self.stats.count_named(|c| &mut c.fallbacks, "declined");
                story.tell(format!("{name} declined ({why:?})"));
                ticket.declined(worker, why);
            }
            Err(error) => {
                self.stats.count_named(|c| &mut c.fallbacks, error.name());
                let source = &error as &dyn std::error::Error;
                tracing::warn!(worker = name, error = source, "a worker did not finish an action");
                story.tell(format!("{name}: {error}"));
                ticket.failed(worker, error.kind());
            }
        }
        None
    }
}
