//! An echo service on tokio: many clients, one thread, `select!`, and an end without loss.
//!
//! ```sh
//! laneway lane create one-out --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create one-back --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create two-out --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! laneway lane create two-back --slot-size 120 --slots 64 --wait park --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! async_service SOCKET serve one two &
//! async_service SOCKET call one hello world
//! ```
//!
//! SOCKET is the agent's attach socket, such as `/run/laneway/attach/attach.sock`. The service
//! answers until Ctrl-C: then it answers what has arrived, and ends every stream.

use std::error::Error;

use laneway_shm::asynchronous::{AsyncConsumer, AsyncProducer};
use laneway_shm::{Attach, RecvError, ReserveError};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "serve", clients @ ..] => serve(socket, clients).await,
        [socket, "call", client, texts @ ..] => call(socket, client, texts).await,
        _ => Err("usage: async_service SOCKET serve CLIENT... | call CLIENT TEXT...".into()),
    }
}

async fn serve(socket: &str, clients: &[&str]) -> Result<(), Failure> {
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    for client in clients {
        let requests = Attach::by_name(socket, &format!("{client}-out")).async_consumer()?;
        let replies = Attach::by_name(socket, &format!("{client}-back")).async_producer()?;
        tasks.spawn(answer(requests, replies, stopped.clone()));
    }
    println!("serving {} clients", clients.len());
    tokio::signal::ctrl_c().await?;
    drop(stop);
    let mut answered = 0;
    while let Some(served) = tasks.join_next().await {
        answered += served??;
    }
    println!("{answered} requests answered");
    Ok(())
}

/// Serves one client, from one process of its to the next, until the service is stopped.
async fn answer(
    mut requests: AsyncConsumer,
    mut replies: AsyncProducer,
    mut stopped: watch::Receiver<()>,
) -> Result<u64, Failure> {
    let mut answered = 0;
    loop {
        // The first branch that is ready: what has arrived is answered before the end.
        let request = tokio::select! {
            biased;
            request = requests.recv() => match request {
                Ok(request) => request.to_vec(),
                Err(RecvError::PeerGone { .. }) => continue,
                Err(error) => return Err(error.into()),
            },
            _ = stopped.changed() => break,
        };
        match replies.send(&request.to_ascii_uppercase()).await {
            Ok(()) => answered += 1,
            // Nobody wants the answer any more.
            Err(ReserveError::PeerGone) => {}
            Err(error) => return Err(error.into()),
        }
    }
    replies.close().await?;
    Ok(answered)
}

async fn call(socket: &str, client: &str, texts: &[&str]) -> Result<(), Failure> {
    let mut requests = Attach::by_name(socket, &format!("{client}-out")).async_producer()?;
    let mut replies = Attach::by_name(socket, &format!("{client}-back")).async_consumer()?;
    let (mut asked, mut answered) = (0, 0);
    while answered < texts.len() {
        // Whichever is possible: the wait that loses has taken nothing.
        tokio::select! {
            room = requests.room(120), if asked < texts.len() => {
                room?;
                requests.send(texts[asked].as_bytes()).await?;
                asked += 1;
            }
            reply = replies.recv() => {
                println!("{}", String::from_utf8_lossy(&reply?.to_vec()));
                answered += 1;
            }
        }
    }
    Ok(())
}
