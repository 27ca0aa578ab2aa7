//! What the file and its devices can do to the engine.

mod damage;
mod device;
mod faults;
