//! Frozen payloads: a camera's frames, too large for slots, each behind its caption.
//!
//! ```sh
//! laneway lane create frames --slot-size 56 --slots 64 --pinning none \
//!     --producer-uid $(id -u) --consumer-uid $(id -u)
//! frozen_frames SOCKET view frames &
//! frozen_frames SOCKET shoot frames 100 16384
//! ```
//!
//! SOCKET is the agent's attach socket, such as `/run/laneway/attach/attach.sock`; a frame has so
//! many KiB. The frame's file is the message: the viewer looks at the very bytes that the camera
//! wrote, and nobody can change them any more. A camera goes on where the one before it stopped: to
//! shoot anew, delete the lane first.

use std::error::Error;
use std::time::Duration;

use laneway_shm::{Attach, FrozenBuilder, Incoming, PeerState, RecvError};

const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "shoot", lane, count, kib] => shoot(socket, lane, count.parse()?, kib.parse()?),
        [socket, "view", lane] => view(socket, lane),
        _ => Err("usage: frozen_frames SOCKET shoot LANE COUNT KIB | ... view LANE".into()),
    }
}

fn shoot(socket: &str, lane: &str, count: u64, kib: usize) -> Result<(), Box<dyn Error>> {
    // Either end may ask for the socket that the files travel on.
    let mut camera = Attach::by_name(socket, lane).lifeline(true).producer()?;
    // What is sent to nobody yet dies with this process; what a viewer was sent does not.
    while camera.peer() != PeerState::Live {
        camera.maintain()?;
        std::thread::sleep(Duration::from_millis(1));
    }
    // A successor goes on where the one before it stopped, be it between caption and frame.
    while camera.position() < 2 * count {
        let number = (camera.position() / 2).to_le_bytes();
        if camera.position().is_multiple_of(2) {
            camera.send(&number, PATIENCE)?;
            continue;
        }
        let mut frame = FrozenBuilder::new(kib << 10)?;
        if let (0, Some(why)) = (camera.position() / 2, frame.step_down()) {
            eprintln!("frames lie on pages of {} bytes: {why}", frame.page_bytes());
        }
        frame.bytes_mut().chunks_exact_mut(8).for_each(|pixels| pixels.copy_from_slice(&number));
        camera.send_frozen(&frame.freeze()?, PATIENCE)?;
    }
    Ok(camera.close(PATIENCE)?)
}

fn view(socket: &str, lane: &str) -> Result<(), Box<dyn Error>> {
    let mut viewer = Attach::by_name(socket, lane).consumer()?;
    let (mut captions, mut frames, mut lost) = (0u64, 0u64, 0u64);
    loop {
        let number = viewer.position() / 2;
        match viewer.recv_any(PATIENCE) {
            Ok(Incoming::Message(caption)) => {
                let is_right = caption.position() / 2 == number;
                let found = caption.to_array().map(u64::from_le_bytes);
                if !is_right || found != Some(number) {
                    return Err(format!("caption {found:?} instead of {number}").into());
                }
                captions += 1;
            }
            Ok(Incoming::Frozen(frame)) => {
                if frame.chunks_exact(8).any(|pixels| pixels != number.to_le_bytes()) {
                    return Err(format!("frame {number} is of other pixels").into());
                }
                frames += 1;
            }
            // Its camera died before this viewer was sent it.
            Err(RecvError::FrozenLost { .. }) => lost += 1,
            Err(RecvError::Closed { position }) => {
                println!("{captions} captions, {frames} frames, {lost} lost, {position} slots");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}
