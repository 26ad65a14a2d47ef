package dashboard

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// screenshots is where tests leave what they have seen, for people to look at.
var screenshots = flag.String("screenshots", "", "write screenshots of the page into this folder")

// patience ends a wait for what never comes; no test that succeeds depends on it.
const patience = time.Minute

// browser is a headless Chromium that is driven with its DevTools protocol over a pipe.
type browser struct {
	t  *testing.T
	in *os.File

	mu       sync.Mutex
	last     int
	answers  map[int]chan answer
	problems []string      // what its console has said, apart from what a test expects
	requests []string      // URLs
	gone     chan struct{} // closed when it says no more
	ended    chan struct{} // closed when its process has
	said     bytes.Buffer
	session  string
}

type answer struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// newBrowser starts one with an empty tab. Without Chromium the test is skipped, but not in CI.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal("there is no chromium, which CI needs to have; type: apt-get install chromium")
	case err != nil:
		t.Skip("there is no chromium to look at the page with; type: apt-get install chromium")
	}
	folder, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	theirIn, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+folder, "--remote-debugging-pipe", "--window-size=1280,1000", "about:blank")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut} // 3 and 4
	cmd.WaitDelay = 10 * time.Second
	b := &browser{t: t, in: in, answers: map[int]chan answer{}, gone: make(chan struct{}), ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &b.said, &b.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirIn.Close()
	theirOut.Close()
	go func() {
		_ = cmd.Wait() // however it ends
		close(b.ended)
	}()
	go b.listen(out)
	t.Cleanup(func() {
		in.Close() // which ends it
		select {
		case <-b.gone:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
		}
		<-b.ended
		out.Close()
		_ = os.RemoveAll(folder) // a process of its own may still be at it
	})

	var target struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.do(domain+".enable", nil, nil)
	}
	return b
}

// listen takes what the browser says, until it ends.
func (b *browser) listen(out *os.File) {
	defer close(b.gone)
	messages := bufio.NewReader(out)
	for {
		text, err := messages.ReadBytes(0)
		if err != nil {
			return
		}
		var a answer
		if err := json.Unmarshal(bytes.TrimSuffix(text, []byte{0}), &a); err != nil {
			b.problem("an answer that is no JSON: " + err.Error())
			continue
		}
		b.mu.Lock()
		waiting := b.answers[a.ID]
		delete(b.answers, a.ID)
		b.mu.Unlock()
		switch {
		case waiting != nil:
			waiting <- a
		case a.Method == "Network.requestWillBeSent":
			var p struct{ Request struct{ URL string } }
			_ = json.Unmarshal(a.Params, &p) // an empty one fails the test
			b.mu.Lock()
			b.requests = append(b.requests, p.Request.URL)
			b.mu.Unlock()
		case a.Method == "Runtime.exceptionThrown", a.Method == "Runtime.consoleAPICalled", a.Method == "Log.entryAdded":
			b.problem(a.Method + " " + string(a.Params))
		}
	}
}

func (b *browser) problem(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.problems = append(b.problems, text)
}

// do has the browser do something.
func (b *browser) do(method string, params map[string]any, result any) {
	b.t.Helper()
	waiting := make(chan answer, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.answers[id] = waiting
	b.mu.Unlock()
	message := map[string]any{"id": id, "method": method, "params": params}
	if params == nil {
		message["params"] = map[string]any{}
	}
	if b.session != "" {
		message["sessionId"] = b.session
	}
	text, err := json.Marshal(message)
	if err == nil {
		_, err = b.in.Write(append(text, 0))
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
	select {
	case a := <-waiting:
		err = nil
		if a.Error != nil {
			err = errors.New(a.Error.Message)
		} else if result != nil {
			err = json.Unmarshal(a.Result, result)
		}
	case <-b.gone:
		err = errors.New("chromium has ended")
		<-b.ended
		b.t.Logf("it has said: %s", b.said.String())
	case <-time.After(patience):
		err = errors.New("no answer")
	}
	if err != nil {
		b.t.Fatalf("%s: %v", method, err)
	}
}

// eval returns what a JavaScript expression yields, or the promise that it yields.
func eval[T any](b *browser, expression string) (value T) {
	b.t.Helper()
	var r struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &r)
	if r.ExceptionDetails != nil {
		b.t.Fatalf("%s: %s", expression, r.ExceptionDetails)
	}
	if err := json.Unmarshal(r.Result.Value, &value); err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// await waits until a condition holds on the page.
func (b *browser) await(condition string) {
	b.t.Helper()
	began := time.Now()
	for !eval[bool](b, "Boolean("+condition+")") {
		if time.Since(began) > patience {
			b.t.Fatalf("%s does not come true; the page has: %s", condition, eval[string](b, "document.body.innerText"))
		}
		eval[bool](b, "new Promise((done) => setTimeout(done, 20, true))")
	}
}

// text is the text of the element with that id.
func (b *browser) text(id string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.getElementById(%q).innerText", id))
}

func (b *browser) open(url string) {
	b.t.Helper()
	b.do("Page.navigate", map[string]any{"url": url}, nil)
	b.await("document.readyState === 'complete' && overview")
}

// phone makes the window as narrow as a small phone's, or again as wide as a desk's.
func (b *browser) phone(is bool) {
	b.t.Helper()
	width, density := 1280, 1
	if is {
		width, density = 360, 2
	}
	b.do("Emulation.setDeviceMetricsOverride", map[string]any{"width": width, "height": 900, "deviceScaleFactor": density, "mobile": is}, nil)
}

func (b *browser) dark(is bool) {
	b.t.Helper()
	scheme := "light"
	if is {
		scheme = "dark"
	}
	b.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}}}, nil)
}

// picture takes one of the whole page, if they are wanted.
func (b *browser) picture(name string) {
	b.t.Helper()
	if *screenshots == "" {
		return
	}
	var r struct{ Data string }
	b.do("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &r)
	data, err := base64.StdEncoding.DecodeString(r.Data)
	if err == nil {
		err = os.WriteFile(filepath.Join(*screenshots, name+".png"), data, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// pictures takes one in each look. In none of them is the page wider than the window.
func (b *browser) pictures(name string) {
	b.t.Helper()
	for _, look := range []string{"light", "dark", "phone", "phone-dark"} {
		b.phone(strings.HasPrefix(look, "phone"))
		b.dark(strings.HasSuffix(look, "dark"))
		b.picture(name + "-" + look)
		if over := eval[int](b, "document.documentElement.scrollWidth - window.innerWidth"); over > 0 {
			b.t.Errorf("%s, %s: the page is %d pixels wider than the window", name, look, over)
		}
	}
	b.phone(false)
	b.dark(false)
}

// calm wants that the console is empty and that every request was to the origin.
func (b *browser) calm(origin string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, problem := range b.problems {
		b.t.Errorf("the console says: %s", problem)
	}
	elsewhere := func(url string) bool { return !strings.HasPrefix(url, origin+"/") }
	if slices.ContainsFunc(b.requests, elsewhere) || len(b.requests) < 4 {
		b.t.Errorf("the page has asked for %v", b.requests)
	}
}
