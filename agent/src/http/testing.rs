//! An executor in the test's own thread.
#![expect(clippy::disallowed_methods, reason = "test: runs the executor")]

use std::rc::Rc;
use std::time::Duration;

use smol::future::FutureExt;
use smol::{LocalExecutor, Timer};

/// A test that waits longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` on an executor of its own.
pub(crate) fn run(test: impl AsyncFnOnce(Rc<LocalExecutor<'static>>)) {
    let executor = Rc::new(LocalExecutor::new());
    let late = async {
        Timer::after(PATIENCE).await;
        panic!("the test waited for {PATIENCE:?}");
    };
    smol::block_on(executor.run(test(Rc::clone(&executor)).or(late)));
}
