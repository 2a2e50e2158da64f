"""The command line `fs`: parse, call one library function, print."""
