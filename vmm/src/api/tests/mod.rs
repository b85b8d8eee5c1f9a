mod lives;
mod openapi;
mod random;
mod world;
