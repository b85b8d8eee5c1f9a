//! HTTP on the socket: one thread, one small runtime, everything bounded.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, Semaphore};
use tracing::{debug, warn};

use super::desk::{Desk, World};
use super::reply::{Refusal, Reply};
use super::routes;
use super::socket::{ApiSocket, SocketError};

/// Most bytes in a request's line and headers.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most bytes in a body.
pub const BODY_BYTES_MAX: usize = 256 << 10;
/// Most connections at a time; more wait to be taken.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may be silent, and a body may take.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last answers may take to leave.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Pause after a caller that could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the API cannot be served.
#[derive(Debug, Error)]
pub enum ApiError {
    /// There is no socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The thread or its runtime cannot be had.
    #[error("cannot serve the API: {0}")]
    Thread(#[from] io::Error),
}

/// The server. Ends when dropped, after the answers that are under way.
#[derive(Debug)]
pub struct ApiServer {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves what comes on `socket` at `desk`.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start<W: World + 'static>(socket: ApiSocket, desk: Arc<Desk<W>>) -> Result<Self, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(CONNECTIONS_MAX)
            .build()?;
        let (end, ended) = oneshot::channel();
        let serve = move || {
            if let Err(error) = runtime.block_on(listen(&socket, desk, ended)) {
                warn!("the API is not served any more: {error}");
            }
            // A question that waits for a guest is not waited for.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("api".into()).spawn(serve)?;
        Ok(ApiServer { end: Some(end), thread: Some(thread) })
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // The thread may have ended.
        let _ended = self.end.take().map(|end| end.send(()));
        let _panicked = self.thread.take().map(JoinHandle::join);
    }
}

async fn listen<W: World + 'static>(
    socket: &ApiSocket,
    desk: Arc<Desk<W>>,
    mut ended: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener().try_clone()?)?;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accept = async {
            // It is never closed.
            let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, permit))
        };
        let accepted = tokio::select! {
            accepted = accept => accepted,
            _ = &mut ended => break,
        };
        match accepted {
            Ok((stream, permit)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    converse(stream, desk).await;
                    drop(permit);
                });
            }
            Err(error) => {
                debug!("a caller of the API was not taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    // Idle connections stay until the limit; what is being answered gets its answer.
    let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
    let _late = tokio::time::timeout(FAREWELL_LIMIT, room.acquire_many(all)).await;
    Ok(())
}

async fn converse<W: World + 'static>(stream: UnixStream, desk: Arc<Desk<W>>) {
    let serve = service_fn(move |request| {
        let desk = desk.clone();
        async move { Ok::<_, Infallible>(respond(answer(request, desk).await)) }
    });
    let served = http1::Builder::new()
        // Cloud Hypervisor's client looks for `Content-Length` in just this case.
        .title_case_headers(true)
        .timer(TokioTimer::new())
        .header_read_timeout(SILENCE_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), serve)
        .await;
    if let Err(error) = served {
        debug!("a caller of the API is gone: {error}");
    }
}

async fn answer<W: World + 'static>(request: Request<Incoming>, desk: Arc<Desk<W>>) -> Reply {
    let verb = match routes::find(request.method().as_str(), request.uri().path()) {
        Ok(verb) => verb,
        Err(refusal) => return refusal.into(),
    };
    let body = match take_body(request.into_body()).await {
        Ok(body) => body,
        Err(refusal) => return refusal.into(),
    };
    // It waits for guests: not on the thread that serves the others.
    let served = tokio::task::spawn_blocking(move || desk.serve(verb, &body)).await;
    served.unwrap_or_else(|error| Refusal::Failed(format!("it was not done: {error}")).into())
}

async fn take_body(body: Incoming) -> Result<Bytes, Refusal> {
    let whole = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(SILENCE_LIMIT, whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Refusal::TooLong(format!("a body has at most {BODY_BYTES_MAX} bytes")))
        }
        Ok(Err(error)) => Err(Refusal::BadRequest(format!("the body: {error}"))),
        Err(_) => Err(Refusal::BadRequest("the body does not come".into())),
    }
}

fn respond(reply: Reply) -> Response<Full<Bytes>> {
    let text = reply.body.map(|body| body.to_string()).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
