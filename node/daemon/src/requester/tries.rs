//! The runs of one action on workers: one, or two when a slow one is raced.

use std::{
    future::poll_fn,
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use barn_protocol::NodeId;

use super::remote::{RemoteError, Returned};

/// How a run ended.
pub(super) type Outcome = Result<Returned, RemoteError>;

/// The runs that are under way; dropped, they are cancelled at their workers.
#[derive(Default)]
pub(super) struct Tries(Vec<Try>);

struct Try {
    worker: NodeId,
    began: Instant,
    outcome: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

/// A run that ended.
pub(super) struct Ended {
    /// Where.
    pub(super) worker: NodeId,
    /// How long it took, transfers included.
    pub(super) wall: Duration,
    /// How.
    pub(super) outcome: Outcome,
}

impl Tries {
    /// One more run; a second one races the first.
    pub(super) fn begin(&mut self, worker: NodeId, outcome: impl Future<Output = Outcome> + Send + 'static) {
        self.0.push(Try { worker, began: Instant::now(), outcome: Box::pin(outcome) });
    }

    /// Cancels all runs; returns where they were.
    pub(super) fn cancel(&mut self) -> Vec<NodeId> {
        self.0.drain(..).map(|cancelled| cancelled.worker).collect()
    }

    /// The next run that ends; with none under way, never. May be dropped and called again.
    pub(super) async fn next(&mut self) -> Ended {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(outcome) = self.0[index].outcome.as_mut().poll(context) {
                    let Try { worker, began, .. } = self.0.swap_remove(index);
                    return Poll::Ready(Ended { worker, wall: began.elapsed(), outcome });
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use barn_protocol::{Identity, wire::Decline};

    use super::*;

    fn id(n: u8) -> NodeId {
        Identity::from_seed(&[n; 32]).id()
    }

    #[tokio::test]
    async fn the_first_to_end_is_told_and_the_other_goes_on() {
        let mut tries = Tries::default();
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        tries.begin(id(1), async move {
            let _ = held.await;
            Err(RemoteError::TooLong)
        });
        tries.begin(id(2), async { Err(RemoteError::Declined(Decline::Busy)) });
        let first = tries.next().await;
        assert_eq!(first.worker, id(2));
        assert!(matches!(first.outcome, Err(RemoteError::Declined(Decline::Busy))));
        let _ = release.send(());
        assert_eq!(tries.next().await.worker, id(1));
        assert!(tries.cancel().is_empty());
    }

    #[tokio::test]
    async fn cancelled_runs_are_dropped() {
        struct Told(Option<tokio::sync::oneshot::Sender<()>>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.take().expect("dropped once").send(());
            }
        }
        let (sender, dropped) = tokio::sync::oneshot::channel();
        let told = Told(Some(sender));
        let mut tries = Tries::default();
        tries.begin(id(1), async move {
            let _told = told;
            std::future::pending().await
        });
        assert_eq!(tries.cancel(), [id(1)]);
        dropped.await.expect("the run was dropped");
    }
}
