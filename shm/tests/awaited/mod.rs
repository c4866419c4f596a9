//! What tests of awaited ends share: a runtime with an end, and futures that are dropped half way.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

/// No wake-up takes as long on any machine that is not stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs to the end, or fails where a wake-up was lost.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("nobody is woken any more") })
}

/// Polls a future so many times, each time that it is woken, and drops it unless it was ready.
pub(crate) async fn give_up_after<T>(polls: u32, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        if left == 0 {
            cx.waker().wake_by_ref();
        }
        future.as_mut().poll(cx).map(Some)
    })
    .await
}
