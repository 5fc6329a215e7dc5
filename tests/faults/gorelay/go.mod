module gorelay

go 1.19

require relaybilling v0.0.0

replace relaybilling => ../../../clients/go
