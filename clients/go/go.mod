module relaybilling

go 1.19
