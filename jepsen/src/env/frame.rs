//! What the switch reads of a frame: its destination, and by TCP's ports the plane that it belongs to.

use crate::plan::Plane;

/// Port of the coordinators' RPC.
pub const RPC_PORT: u16 = 7100;
/// Port of REST.
pub const REST_PORT: u16 = 8081;
/// Port of the rows between workers.
pub const DATA_PORT: u16 = 7200;
/// Port of the object server.
pub const OBJECT_PORT: u16 = 9000;

/// The Ethernet destination; `None` of a torn frame.
#[must_use]
pub fn destination(frame: &[u8]) -> Option<[u8; 6]> {
    frame.get(..6)?.try_into().ok()
}

/// The plane of a frame; `Any` if it belongs to none in particular.
#[must_use]
pub fn plane(frame: &[u8]) -> Plane {
    let Some((from, to)) = tcp_ports(frame) else {
        return Plane::Any;
    };
    let is = |port| from == port || to == port;
    if is(RPC_PORT) {
        Plane::Control
    } else if is(DATA_PORT) {
        Plane::Data
    } else if is(OBJECT_PORT) {
        Plane::Storage
    } else {
        Plane::Any
    }
}

fn tcp_ports(frame: &[u8]) -> Option<(u16, u16)> {
    const ETHERNET: usize = 14;
    if frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    let header = usize::from(frame.get(ETHERNET)? & 0x0f) * 4;
    if *frame.get(ETHERNET + 9)? != 6 {
        return None;
    }
    let tcp = frame.get(ETHERNET + header..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some((port(0)?, port(2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(from: u16, to: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 10, 77, 0, 1, 2, 0, 10, 77, 0, 2, 0x08, 0x00];
        let mut ip = vec![0u8; 20];
        ip[0] = 0x45;
        ip[9] = 6;
        frame.extend(ip);
        frame.extend(from.to_be_bytes());
        frame.extend(to.to_be_bytes());
        frame
    }

    #[test]
    fn planes_are_told_by_port_in_both_directions() {
        assert_eq!(plane(&tcp(40000, RPC_PORT)), Plane::Control);
        assert_eq!(plane(&tcp(RPC_PORT, 40000)), Plane::Control);
        assert_eq!(plane(&tcp(40000, DATA_PORT)), Plane::Data);
        assert_eq!(plane(&tcp(OBJECT_PORT, 40000)), Plane::Storage);
        assert_eq!(plane(&tcp(40000, REST_PORT)), Plane::Any);
    }

    #[test]
    fn torn_frames_are_told() {
        let frame = tcp(1, 2);
        for length in 0..frame.len() {
            let _ = plane(&frame[..length]);
        }
        assert_eq!(destination(&frame[..5]), None);
        assert_eq!(destination(&frame), Some([2, 0, 10, 77, 0, 1]));
    }
}
