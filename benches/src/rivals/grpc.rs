//! tonic over a Unix socket: a call for each message, or a stream of them.
//!
//! Practice: prost messages with a `bytes` field that is not copied out, one HTTP/2 connection,
//! and a runtime of one thread on each side, because each side has one cpu. Both always sleep
//! while they wait: there is nothing to poll. The service is written out by hand as the code
//! generator would write it.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::NamedService;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::meeting::{Meeting, parting};
use super::{Errand, play_shaped};
use crate::error::BenchError;
use crate::message::{STOP, Seen, fill, judge};
use crate::ports::{Inlet, LargeInlet, LargeOutlet, Outlet};
use crate::recorder::Recorder;
use crate::task::{Answer, Side};

/// Packets on their way from the program to the connection.
const QUEUE: usize = 1024;
/// The note that the server listens.
const LISTENING: &str = "listening";
/// Time between two looks for the other side's parting.
const LOOK: Duration = Duration::from_millis(1);

/// A message as gRPC carries it.
#[derive(Clone, PartialEq, prost::Message)]
struct Packet {
    #[prost(bytes = "bytes", tag = "1")]
    body: Bytes,
}

fn codec() -> ProstCodec<Packet, Packet> {
    ProstCodec::default()
}

fn runtime() -> Result<Runtime, BenchError> {
    Builder::new_current_thread().enable_all().build().map_err(BenchError::io("tokio"))
}

fn packet(bytes: usize, number: u64) -> Packet {
    let mut body = vec![0; bytes];
    fill(&mut body, number);
    Packet { body: body.into() }
}

/// Parts while the runtime goes on: it may still have something to deliver.
async fn part(errand: &Errand, meeting: &Meeting) -> Result<(), BenchError> {
    meeting.tell(parting(errand.side), "")?;
    while !meeting.has(parting(errand.side.other())) {
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// One method of one service.
#[derive(Clone)]
struct Method<F>(F);

impl<F> NamedService for Method<F> {
    const NAME: &'static str = "laneway.bench.Bench";
}

impl<F> Service<http::Request<Body>> for Method<F>
where
    F: Fn(http::Request<Body>) -> BoxFuture<http::Response<Body>, Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        (self.0)(request)
    }
}

fn path() -> PathAndQuery {
    PathAndQuery::from_static("/laneway.bench.Bench/Pass")
}

fn listener(meeting: &Meeting) -> Result<UnixListenerStream, BenchError> {
    let listener = UnixListener::bind(meeting.path("grpc")).map_err(BenchError::io("bind"))?;
    meeting.tell(LISTENING, "")?;
    Ok(UnixListenerStream::new(listener))
}

async fn client(meeting: &Meeting) -> Result<tonic::client::Grpc<Channel>, BenchError> {
    let socket = meeting.path("grpc");
    let connector = service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
        .map_err(BenchError::rival("tonic connect"))?;
    let client = tonic::client::Grpc::new(channel);
    Ok(client.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX))
}

/// What the server of unary calls knows.
#[derive(Debug)]
struct Counter {
    bytes: usize,
    expected: u64,
    /// How it ended.
    outcome: Option<Result<(), BenchError>>,
}

impl Counter {
    /// Judges a message and makes one of its own; the last one ends the count.
    fn answer(&mut self, request: &Packet, ended: &Notify) -> Result<Response<Packet>, Status> {
        let judged = judge(&request.body, self.bytes, self.expected);
        let number = match judged {
            Ok(Seen::Message) => {
                self.expected += 1;
                return Ok(Response::new(packet(self.bytes, self.expected - 1)));
            }
            Ok(Seen::Stop) => {
                self.outcome = Some(Ok(()));
                Ok(STOP)
            }
            Err(error) => {
                let status = Status::data_loss(error.to_string());
                self.outcome = Some(Err(error));
                Err(status)
            }
        };
        ended.notify_one();
        number.map(|number| Response::new(packet(self.bytes, number)))
    }
}

/// One call for each message: a round trip each.
pub(crate) fn unary(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let runtime = runtime()?;
    match errand.side {
        Side::Initiator => runtime.block_on(call(errand, meeting)),
        Side::Responder => runtime.block_on(answer(errand, meeting)),
    }
}

/// Calls for the errand's time. The clock is read before a call, so that it is part of the trip.
async fn call(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    meeting.hear(LISTENING)?;
    let mut client = client(meeting).await?;
    let bytes = errand.cell.bytes;
    let mut recorder = Recorder::new(errand.time());
    let mut number = 0;
    let mut go_on = true;
    while go_on {
        number += 1;
        go_on = recorder.stamp();
        client.ready().await.map_err(BenchError::rival("tonic ready"))?;
        let request = Request::new(packet(bytes, number));
        let answer = client.unary(request, path(), codec()).await;
        let answer: Packet = answer.map_err(BenchError::rival("tonic call"))?.into_inner();
        judge(&answer.body, bytes, number)?;
    }
    client.ready().await.map_err(BenchError::rival("tonic ready"))?;
    let stopped = client.unary(Request::new(packet(bytes, STOP)), path(), codec()).await;
    let _: Response<Packet> = stopped.map_err(BenchError::rival("tonic call"))?;
    part(errand, meeting).await?;
    Ok(Answer::Latency(recorder.finish()))
}

/// Answers calls until the last one.
async fn answer(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let incoming = listener(meeting)?;
    let ended = Arc::new(Notify::new());
    let counter = Counter { bytes: errand.cell.bytes, expected: 1, outcome: None };
    let counter = Arc::new(Mutex::new(counter));
    let (shared, bell) = (counter.clone(), ended.clone());
    let method = Method(move |request| -> BoxFuture<_, _> {
        let (shared, bell) = (shared.clone(), bell.clone());
        Box::pin(async move {
            let handler = service_fn(move |request: Request<Packet>| {
                let mut counter = shared.lock().unwrap_or_else(PoisonError::into_inner);
                std::future::ready(counter.answer(request.get_ref(), &bell))
            });
            Ok(server().unary(handler, request).await)
        })
    });
    let finished = async {
        ended.notified().await;
        part(errand, meeting).await
    };
    let serving = Server::builder().add_service(method).serve_with_incoming(incoming);
    tokio::select! {
        served = serving => served.map_err(BenchError::rival("tonic server"))?,
        parted = finished => parted?,
    }
    let outcome = counter.lock().unwrap_or_else(PoisonError::into_inner).outcome.take();
    outcome.unwrap_or(Err(BenchError::Peer(Duration::ZERO))).map(|()| Answer::Done)
}

fn server() -> tonic::server::Grpc<ProstCodec<Packet, Packet>> {
    let server = tonic::server::Grpc::new(codec());
    server.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX)
}

/// One stream of messages for each way.
pub(crate) fn stream(errand: &Errand, meeting: &Meeting) -> Result<Answer, BenchError> {
    let runtime = runtime()?;
    let (sender, receiver) = match errand.side {
        Side::Initiator => runtime.block_on(open(meeting))?,
        Side::Responder => runtime.block_on(opened(meeting))?,
    };
    let mut outlet = Sending { sender, runtime: &runtime };
    let mut inlet = Receiving { receiver, runtime: &runtime };
    play_shaped!(errand, &mut outlet, &mut inlet, || runtime.block_on(part(errand, meeting)))
}

type Ends = (mpsc::Sender<Packet>, Streaming<Packet>);

async fn open(meeting: &Meeting) -> Result<Ends, BenchError> {
    meeting.hear(LISTENING)?;
    let mut client = client(meeting).await?;
    let (sender, queue) = mpsc::channel(QUEUE);
    client.ready().await.map_err(BenchError::rival("tonic ready"))?;
    let request = Request::new(ReceiverStream::new(queue));
    let answer = client.streaming(request, path(), codec()).await;
    Ok((sender, answer.map_err(BenchError::rival("tonic stream"))?.into_inner()))
}

/// Serves on the runtime until that is dropped; the ends of the first stream.
async fn opened(meeting: &Meeting) -> Result<Ends, BenchError> {
    let incoming = listener(meeting)?;
    let (calls, mut called) = mpsc::channel::<Ends>(1);
    let method = Method(move |request| -> BoxFuture<_, _> {
        let calls = calls.clone();
        Box::pin(async move {
            let handler = service_fn(move |request: Request<Streaming<Packet>>| {
                let (sender, queue) = mpsc::channel(QUEUE);
                let taken = calls.try_send((sender, request.into_inner()));
                let answers = tokio_stream::StreamExt::map(ReceiverStream::new(queue), Ok);
                std::future::ready(match taken {
                    Ok(()) => Ok(Response::new(answers)),
                    Err(_) => Err(Status::resource_exhausted("one stream is enough")),
                })
            });
            Ok(server().streaming(handler, request).await)
        })
    });
    let serving = Server::builder().add_service(method).serve_with_incoming(incoming);
    let serving = tokio::spawn(serving);
    tokio::select! {
        ends = called.recv() => ends.ok_or(BenchError::Peer(Duration::ZERO)),
        served = serving => Err(BenchError::rival("tonic server")(served)),
    }
}

struct Sending<'a> {
    sender: mpsc::Sender<Packet>,
    runtime: &'a Runtime,
}

impl Sending<'_> {
    /// Queues a packet; the connection is served when the queue is full, or while this side waits.
    fn send(&self, packet: Packet) -> Result<(), BenchError> {
        match self.sender.try_send(packet) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Full(packet)) => self
                .runtime
                .block_on(self.sender.send(packet))
                .map_err(BenchError::rival("tonic stream")),
            Err(closed) => Err(BenchError::rival("tonic stream")(closed)),
        }
    }
}

impl<const N: usize> Outlet<N> for Sending<'_> {
    fn put(&mut self, message: [u8; N]) -> Result<(), BenchError> {
        self.send(Packet { body: Bytes::copy_from_slice(&message) })
    }
}

impl LargeOutlet for Sending<'_> {
    fn put_large(&mut self, buffer: &mut [u8], number: u64) -> Result<(), BenchError> {
        self.send(packet(buffer.len(), number))
    }
}

struct Receiving<'a> {
    receiver: Streaming<Packet>,
    runtime: &'a Runtime,
}

impl Receiving<'_> {
    /// The next packet: one that has arrived already costs no turn of the runtime.
    fn next(&mut self) -> Result<Packet, BenchError> {
        let mut context = Context::from_waker(Waker::noop());
        let looked = pin!(self.receiver.message()).poll(&mut context);
        let arrived = match looked {
            Poll::Ready(arrived) => arrived,
            Poll::Pending => self.runtime.block_on(self.receiver.message()),
        };
        let packet = arrived.map_err(BenchError::rival("tonic stream"))?;
        packet.ok_or(BenchError::Peer(Duration::ZERO))
    }
}

impl<const N: usize> Inlet<N> for Receiving<'_> {
    fn take(&mut self, expected: u64) -> Result<Seen, BenchError> {
        judge(&self.next()?.body, N, expected)
    }
}

impl LargeInlet for Receiving<'_> {
    fn take_large(&mut self, buffer: &mut [u8], expected: u64) -> Result<Seen, BenchError> {
        judge(&self.next()?.body, buffer.len(), expected)
    }
}
