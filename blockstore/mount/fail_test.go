package mount_test

const agentVerb = "agent"

func agentMain([]string) int { return 1 }
