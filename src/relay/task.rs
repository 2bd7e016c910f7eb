//! Tasks whose panic ends them alone.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::Core;
use crate::clock;

/// Spawns a task of a core. A panic in it ends it alone.
pub fn spawn_caught(core: &Rc<Core>, work: impl Future<Output = ()> + 'static) {
    monoio::spawn(Caught { future: work, core: Rc::clone(core) });
}

pin_project! {
    /// A panic is caught at the task's boundary: it ends this task and no other.
    struct Caught<F> {
        // In the task itself, so that all a stream needs when it wakes lies in one place.
        #[pin]
        future: F,
        core: Rc<Core>,
    }
}

impl<F: Future<Output = ()>> Future for Caught<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let future = this.future;
        // Unwind safe: after a panic the future is only dropped, and what it shares with others
        // (cells of counters, the pool) is consistent between any two statements.
        let poll = || std::panic::catch_unwind(AssertUnwindSafe(|| future.poll(cx)));
        match clock::held(poll) {
            Ok(polled) => polled,
            Err(_) => {
                this.core.metrics.panics.inc();
                log::error!(
                    "a fault of the relay ended one connection (see the panic above, and the \
                     access log for `panicked`)"
                );
                Poll::Ready(())
            }
        }
    }
}
