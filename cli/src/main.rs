//! The program `signet`.

mod command;
mod console;
mod failure;
mod flags;
mod json;
mod socket;
mod table;

fn main() {}
