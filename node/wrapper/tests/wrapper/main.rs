//! The program `barn`, run as build systems run it, against a node that is played by these tests over a real
//! Unix socket.

mod answers;
mod failures;
mod handover;
mod silence;
mod starting;
mod support;
mod transparency;
