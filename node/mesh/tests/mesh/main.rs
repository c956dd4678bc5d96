//! Real meshes on loopback: members among themselves, and members against strangers.

mod common;
mod office;
mod strangers;
