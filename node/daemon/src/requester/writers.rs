//! Who writes which output now.
//!
//! Two compiles that write the same file at the same time leave that of either, or a mixture. So does the bare
//! compiler, but it forgets: a result that was kept would come back in every later build. Hence each compile claims
//! its outputs for as long as it may write them, and one whose claim was disturbed is not kept. Compiles that the
//! wrapper became claim nothing, for nobody sees their end.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use barn_protocol::TreePath;

/// The outputs that are claimed now, each with the marks of its claims.
#[derive(Debug, Default)]
pub struct Writers(Mutex<HashMap<TreePath, Vec<Arc<AtomicBool>>>>);

/// The outputs of one compile while it may write them.
#[derive(Debug)]
pub struct Claim {
    writers: Arc<Writers>,
    outputs: Vec<TreePath>,
    disturbed: Arc<AtomicBool>,
}

impl Writers {
    /// Claims `outputs`; disturbs all other claims on any of them, and is disturbed by them.
    pub fn claim(self: &Arc<Self>, outputs: impl IntoIterator<Item = TreePath>) -> Arc<Claim> {
        let mut outputs: Vec<TreePath> = outputs.into_iter().collect();
        outputs.sort_unstable();
        outputs.dedup();
        let disturbed = Arc::new(AtomicBool::new(false));
        let mut claimed = self.lock();
        for output in &outputs {
            let marks = claimed.entry(output.clone()).or_default();
            marks.push(disturbed.clone());
            if marks.len() > 1 {
                marks.iter().for_each(|mark| mark.store(true, Ordering::Relaxed));
            }
        }
        drop(claimed);
        Arc::new(Claim { writers: self.clone(), outputs, disturbed })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TreePath, Vec<Arc<AtomicBool>>>> {
        self.0.lock().expect("no panic while the claims are held")
    }
}

impl Claim {
    /// Whether another compile had a claim on one of these outputs at any time since.
    pub fn is_disturbed(&self) -> bool {
        self.disturbed.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claimed = self.writers.lock();
        for output in &self.outputs {
            let Some(marks) = claimed.get_mut(output) else { continue };
            marks.retain(|mark| !Arc::ptr_eq(mark, &self.disturbed));
            if marks.is_empty() {
                claimed.remove(output);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(names: &[&str]) -> Vec<TreePath> {
        names.iter().map(|name| TreePath::new(name.as_bytes()).unwrap()).collect()
    }

    #[test]
    fn claims_at_the_same_time_disturb_one_another() {
        let writers = Arc::new(Writers::default());
        let first = writers.claim(paths(&["/x.o", "/x.d", "/x.o"]));
        let apart = writers.claim(paths(&["/y.o"]));
        assert!(!first.is_disturbed());
        let second = writers.claim(paths(&["/z.o", "/x.d"]));
        assert!(first.is_disturbed() && second.is_disturbed() && !apart.is_disturbed());
        drop(second);
        assert!(first.is_disturbed(), "what was disturbed stays so");
        drop(first);
        assert!(!writers.claim(paths(&["/x.o", "/x.d", "/z.o"])).is_disturbed());
        drop(apart);
        assert!(writers.lock().is_empty());
    }
}
