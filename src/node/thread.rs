//! A thread with a small runtime of its own: for what blocks on a store.

use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use crate::store;

/// Runs a future on a thread named `name`. However it ends, by a failure or a panic too, `stop` is cancelled then.
pub(super) fn on_thread<F, Fut>(
    name: String,
    stop: CancellationToken,
    work: F,
) -> JoinHandle<Result<(), store::Error>>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), store::Error>>,
{
    let body = move || {
        let guard = stop.drop_guard();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime without I/O of its own can always be built");
        let result = runtime.block_on(work());
        drop(guard);
        result
    };
    std::thread::Builder::new()
        .name(name)
        .spawn(body)
        .expect("the system has room for a thread at start")
}
